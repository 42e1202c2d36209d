"""Load the three networks of a model from any checkpoint."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kinora.config import ModelConfig
from kinora.errors import CheckpointError
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet
from kinora.weights.checkpoint import Checkpoint
from kinora.weights.fingerprint import fingerprint
from kinora.weights.hub import DEFAULT_HUB, Hub, locate
from kinora.weights.names import NETWORKS, meta_networks
from kinora.weights.open import open_checkpoint
from kinora.weights.read import bad_values

__all__ = ["Networks", "load_networks"]

FP32_ALWAYS = ("vae.encoder.", "vae.quant_conv.")
"""The image branch of the autoencoder, whatever precision the rest runs in."""


class Networks(NamedTuple):
    """A model in memory: networks in evaluation mode, whose parameters ask for no gradients."""

    config: ModelConfig
    unet: VideoUNet
    vae: VideoAutoencoder
    image_encoder: ImageEncoder
    fingerprint: str
    notes: tuple[str, ...]
    """What the user should hear about how the checkpoint was understood."""


def load_networks(
    source: str | Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    vae_dtype: torch.dtype | None = None,
    variant: str | None = None,
    hub: Hub = DEFAULT_HUB,
) -> Networks:
    """Load a model.

    source: an alias ("nano", "svd", "svd-xt", "svd-xt-1.1"), a hub id, a folder or a file.
    dtype: of all parameters but those of the autoencoder's encoder, which are always fp32.
    vae_dtype: of the autoencoder's decoder, where it should be another.
    variant: the published model it should be, for files that don't tell.
    hub: how to ask the hub for what isn't on disk.

    Nothing is held twice: modules are built without memory, the file is mapped, and each tensor is
    taken as it lies there or converted on its own. On the CPU a parameter in the file's own number
    format is the mapped file itself.
    Raises CheckpointError when the checkpoint is missing, damaged, incomplete or something else.
    """
    half = dtype in (torch.float16, torch.bfloat16)
    found = locate(source, half=half, hub=hub)
    checkpoint = open_checkpoint(found.path, variant=variant or found.variant, half=half)
    checkpoint.check()
    mark = fingerprint(checkpoint)
    networks = meta_networks(checkpoint.config)
    for prefix, module in zip(NETWORKS, networks, strict=True):
        usual = vae_dtype if prefix == "vae" and vae_dtype is not None else dtype
        _fill(module, f"{prefix}.", checkpoint, device, usual)
    return Networks(checkpoint.config, *networks, mark, checkpoint.notes)


def _fill(
    module: nn.Module,
    prefix: str,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    state = {
        name: _parameter(checkpoint, f"{prefix}{name}", device, dtype)
        for name in module.state_dict()
    }
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False).eval()


def _parameter(
    checkpoint: Checkpoint, name: str, device: torch.device, dtype: torch.dtype
) -> Tensor:
    if name.startswith(FP32_ALWAYS):
        dtype = torch.float32
    stored = checkpoint.tensor(name)
    if device.type == "cpu" and stored.dtype == dtype:
        return _aligned(checkpoint.sound_tensor(name))
    loaded = stored.to(device).to(dtype).contiguous()
    if bad_values(loaded) is not None:
        checkpoint.sound_tensor(name)
        raise CheckpointError(
            f"{checkpoint.path}: tensor {name} has values that {dtype} can't hold; "
            "load it in bfloat16 or float32"
        )
    checkpoint.forget(name)
    return loaded


def _aligned(tensor: Tensor) -> Tensor:
    """Kernels want whole rows and addresses that fit the number format; most files give both."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor
