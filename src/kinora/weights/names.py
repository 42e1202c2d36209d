"""Our own tensor names and shapes: what a complete checkpoint of a model holds."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import nn

from kinora.config import ModelConfig
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet
from kinora.weights.blocks import transformers

__all__ = ["NETWORKS", "Shapes", "living_shapes", "meta_networks", "shapes", "unused_shapes"]

NETWORKS = ("unet", "vae", "image_encoder")

Shapes = Mapping[str, tuple[int, ...]]

VOCABULARY = 49408
CONTEXT_LENGTH = 77
"""Of CLIP's text half, whose leftovers the original checkpoints still carry."""


def meta_networks(config: ModelConfig) -> tuple[VideoUNet, VideoAutoencoder, ImageEncoder]:
    """The three networks without any memory behind their parameters."""
    with torch.device("meta"):
        return (
            VideoUNet(config.unet),
            VideoAutoencoder(config.vae),
            ImageEncoder(config.image_encoder),
        )


@lru_cache(maxsize=8)
def living_shapes(config: ModelConfig) -> Shapes:
    """Every tensor of the three networks: `unet.…`, `vae.…`, `image_encoder.…`."""
    found: dict[str, tuple[int, ...]] = {}
    for network, module in zip(NETWORKS, meta_networks(config), strict=True):
        found.update(_shapes(f"{network}.", module))
    return MappingProxyType(found)


@lru_cache(maxsize=8)
def unused_shapes(config: ModelConfig) -> Shapes:
    """Every tensor that foreign checkpoints hold and our networks don't need: `unused.…`."""
    found: dict[str, tuple[int, ...]] = {}
    for path, width in transformers(config.unet):
        for part in ("space", "time"):
            prefix = f"unused.{path}{part}.context."
            found[f"{prefix}norm.weight"] = found[f"{prefix}norm.bias"] = (width,)
            found[f"{prefix}to_q.weight"] = (width, width)
            found[f"{prefix}to_k.weight"] = (width, config.unet.context_dim)
    found.update(_text_shapes("unused.text_encoder.", config.image_encoder.output_dim))
    with torch.device("meta"):
        flat = VideoAutoencoder(replace(config.vae, temporal_decoder=False))
    for name, shape in _shapes("", flat):
        if name.startswith(("decoder.", "post_quant_conv.")):
            found[f"unused.condition_vae.{name}"] = shape
        elif name.startswith("encoder.") or not config.vae.temporal_decoder:
            found[f"unused.vae.{name}"] = shape
    return MappingProxyType(found)


def shapes(config: ModelConfig) -> Shapes:
    """Every tensor that a checkpoint of this model can hold."""
    return {**living_shapes(config), **unused_shapes(config)}


def _text_shapes(prefix: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}logit_scale", ()
    yield f"{prefix}positional_embedding", (CONTEXT_LENGTH, width)
    yield f"{prefix}text_projection", (width, width)
    yield f"{prefix}token_embedding.weight", (VOCABULARY, width)
    yield f"{prefix}ln_final.weight", (width,)
    yield f"{prefix}ln_final.bias", (width,)


def _shapes(prefix: str, module: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, tensor in module.state_dict().items():
        yield f"{prefix}{name}", tuple(tensor.shape)
