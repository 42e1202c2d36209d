"""Which model a single file holds: recognised by its tensors' shapes, its name, or a wish."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from kinora.arguments import shown
from kinora.config import SVD, SVD_XT, SVD_XT_1_1, ModelConfig, config_from_dict, config_to_dict
from kinora.errors import CheckpointError
from kinora.weights.read import Entry, TensorFile

__all__ = [
    "PUBLISHED",
    "config_from_metadata",
    "config_to_metadata",
    "named_variant",
    "published",
    "refuse_contradiction",
    "sgm_config",
]

PUBLISHED: Final[Mapping[str, ModelConfig]] = {c.name: c for c in (SVD, SVD_XT, SVD_XT_1_1)}

SIGNS: Final[Mapping[str, tuple[int, ...]]] = {
    "model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3),
    "model.diffusion_model.middle_block.0.in_layers.2.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.label_emb.0.0.weight": (1280, 768),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
    "conditioner.embedders.0.open_clip.model.visual.proj": (1280, 1024),
}
"""Tensors whose shapes give the published models away."""


def published(variant: str) -> ModelConfig:
    """A published model by name. Raises CheckpointError for an unknown one."""
    given = cast("object", variant)
    name = re.sub(r"[^a-z0-9.]+", "-", given.lower()) if isinstance(given, str) else ""
    if name not in PUBLISHED:
        raise CheckpointError(f"unknown variant {shown(variant)}: it must be one of {_choices()}")
    return PUBLISHED[name]


def named_variant(name: str) -> ModelConfig | None:
    """The published model that a file's, folder's or hub repository's name speaks of."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower())
    if re.search(r"\bxt-?1-?1\b", plain):
        return SVD_XT_1_1
    if re.search(r"\bxt\b", plain):
        return SVD_XT
    return SVD if re.search(r"\b(svd|img2vid)\b", plain) else None


def config_to_metadata(config: ModelConfig) -> str:
    """A configuration as one line of JSON."""
    return json.dumps(config_to_dict(config), separators=(",", ":"), sort_keys=True)


def config_from_metadata(path: Path, text: str) -> ModelConfig:
    """Read it back. Raises CheckpointError, naming the file, when it makes no sense."""
    try:
        values = json.loads(text)
        return config_from_dict(cast("dict[str, Any]", values) if isinstance(values, dict) else {})
    except (ValueError, AttributeError, CheckpointError) as error:
        raise CheckpointError(f"{path}: its metadata can't be understood: {error}") from error


def sgm_config(file: TensorFile, variant: str | None) -> tuple[ModelConfig, list[str]]:
    """The model that an original single file holds, and what to say about how that was found.

    Files that Kinora wrote tell it. The others are recognised as published by their widths;
    whether 14 or 25 frames, which share shapes, comes from `variant`, else the file's name.
    Raises CheckpointError for widths that no published model has, and for a contradiction.
    """
    if "kinora" in file.metadata:
        config = config_from_metadata(file.path, file.metadata["kinora"])
        if variant is not None and variant != config.name:
            refuse_contradiction(file.path, config, variant)
        return config, []
    _refuse_other_widths(file.path, file.entries, variant)
    config, notes = _variant(file.path.stem, variant)
    if "first_stage_model.post_quant_conv.weight" in file.entries:
        config = replace(config, vae=replace(config.vae, temporal_decoder=False))
    return config, [f"{file.path.name} {note}" for note in notes]


def refuse_contradiction(path: Path, config: ModelConfig, variant: str) -> None:
    """Raise the error that says a file holds another model than was asked for."""
    raise CheckpointError(
        f"{path} holds {config.name} ({config.frames} frames), not {variant}; "
        "leave the variant out, or name another file"
    )


def _variant(name: str, variant: str | None) -> tuple[ModelConfig, list[str]]:
    if variant is not None:
        return published(variant), []
    config = named_variant(name)
    if config is not None:
        return config, [f"is taken for {config.name} ({config.frames} frames) by its name"]
    return SVD_XT, [
        f"does not tell which variant it is; taken for {SVD_XT.name} ({SVD_XT.frames} frames). "
        f"Say --variant (one of {_choices()}) if it is another"
    ]


def _refuse_other_widths(path: Path, entries: Mapping[str, Entry], variant: str | None) -> None:
    for key, shape in SIGNS.items():
        if key in entries and entries[key].shape != shape:
            asked = f" {published(variant).name} has" if variant else " the published models have"
            raise CheckpointError(
                f"{path}: {key} has the shape {list(entries[key].shape)} where{asked} "
                f"{list(shape)}. A single file tells no configuration, so other widths can't be "
                "read from one: use a diffusers folder or a file written by Kinora"
            )


def _choices() -> str:
    return ", ".join(PUBLISHED)
