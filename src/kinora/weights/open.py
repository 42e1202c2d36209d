"""Find out what a file or folder is, from its keys, and open it."""

from collections.abc import Iterable
from pathlib import Path

from kinora.arguments import as_path
from kinora.errors import CheckpointError
from kinora.weights.checkpoint import Checkpoint, Stored
from kinora.weights.folder import open_folder
from kinora.weights.keymap import KeyMap, own_rules
from kinora.weights.names import shapes
from kinora.weights.read import TensorFile
from kinora.weights.sgm import sgm_table
from kinora.weights.variants import (
    config_from_metadata,
    published,
    refuse_contradiction,
    sgm_config,
)

__all__ = ["open_checkpoint"]


SGM_PREFIXES = ("model.diffusion_model.", "first_stage_model.", "conditioner.")


def open_checkpoint(
    path: str | Path, *, variant: str | None = None, half: bool = False
) -> Checkpoint:
    """Open a checkpoint of any of the three formats without reading its tensors.

    path: a diffusers folder, an original single file, or a file in our own format.
    variant: the published model it should be, for files that don't tell.
    half: prefer the fp16 files where a diffusers folder has both.
    Raises CheckpointError when it is none of these, or another model than `variant`.
    """
    path = as_path("path", path)
    if variant is not None:
        variant = published(variant).name
    if path.is_dir():
        return open_folder(path, variant=variant, half=half)
    file = TensorFile(path)
    stored = {key: Stored(file, key) for key in file.entries}
    if file.metadata.get("format") == "kinora":
        config = config_from_metadata(path, file.metadata.get("config", ""))
        if variant not in (None, config.name):
            refuse_contradiction(path, config, str(variant))
        return Checkpoint(path, "kinora", config, KeyMap(own_rules(shapes(config))), stored)
    _refuse_other_models(path, file.entries)
    config, notes = sgm_config(file, variant)
    return Checkpoint(path, "sgm", config, sgm_table(config), stored, notes)


def _refuse_other_models(path: Path, found: Iterable[str]) -> None:
    """Say what a single file is when it isn't a video model with everything in it."""
    keys = list(found)
    if not keys:
        raise CheckpointError(f"{path} holds no tensors")
    if any(".lora" in key or key.startswith("lora_") for key in keys):
        raise CheckpointError(f"{path} is a LoRA, a patch for a model; name the model itself")
    if any(key.startswith("blocks.7.positional_embedding") for key in keys):
        raise CheckpointError(f"{path} is an ExVideo patch for a model; name the model itself")
    if not any(key.startswith(SGM_PREFIXES) for key in keys):
        if any(
            key.startswith(("down_blocks.", "vision_model.", "decoder.mid_block")) for key in keys
        ):
            raise CheckpointError(
                f"{path} is one network of a diffusers folder; name the folder that holds "
                "model_index.json"
            )
        raise CheckpointError(
            f"{path} is no Stable Video Diffusion checkpoint: its {len(keys)} tensors are named "
            f"{', '.join(keys[:3])}, …"
        )
    unet = [key for key in keys if key.startswith("model.diffusion_model.")]
    if unet and not any(".time_stack." in key for key in unet):
        raise CheckpointError(
            f"{path} is a Stable Diffusion checkpoint for images, without any layers over time; "
            "Kinora needs a video model such as svd_xt.safetensors"
        )
