"""Small models and files for the tests of checkpoints."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kinora.config import (
    TINY,
    ImageEncoderConfig,
    ModelConfig,
    UNetConfig,
    VAEConfig,
)
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet
from kinora.weights import save_networks
from kinora.weights.names import living_shapes, shapes

KEYS = Path(os.environ.get("KINORA_KEYS", Path(__file__).parents[2] / "shared" / "keys"))

SMALL = ModelConfig(
    name="small",
    frames=3,
    width=64,
    height=64,
    sigma_max=80.0,
    unet=UNetConfig(
        channels=(32, 64),
        blocks=1,
        attention=(True, False),
        heads=(2, 4),
        context_dim=32,
        vector_dim=32,
    ),
    vae=VAEConfig(channels=(32, 64), scale=0.5),  # two blocks a level, as diffusers wants
    image_encoder=ImageEncoderConfig(
        patch_size=112, width=32, layers=1, heads=2, mlp_width=64, output_dim=32
    ),
)
"""Narrow, but with the 32 norm groups that other libraries insist on."""


def keys(name: str) -> dict[str, Any]:
    """A key manifest, or a skipped test where the manifests are not at hand."""
    if not KEYS.is_dir():
        pytest.skip(f"no key manifests in {KEYS} (set KINORA_KEYS)")
    return json.loads((KEYS / name).read_text())


def random_tensors(config: ModelConfig, *, unused: bool, seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of a model by our names, small random numbers."""
    generator = torch.Generator().manual_seed(seed)
    wanted = shapes(config) if unused else living_shapes(config)
    return {name: 0.1 * torch.randn(s, generator=generator) for name, s in wanted.items()}


def parts(tensors: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    """The tensors of one network (or of `unused`), without its name in front."""
    return {
        name.removeprefix(f"{network}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{network}.")
    }


def write_own(path: Path, config: ModelConfig = TINY, *, unused: bool = False) -> Path:
    """A file in our own format, of random numbers."""
    tensors = random_tensors(config, unused=unused)
    networks = {name: parts(tensors, name) for name in ("unet", "vae", "image_encoder")}
    leftovers = {name: t for name, t in tensors.items() if name.startswith("unused.")}
    return save_networks(path, config, networks, unused=leftovers)


def modules(config: ModelConfig) -> dict[str, torch.nn.Module]:
    """The three networks, freshly initialised."""
    return {
        "unet": VideoUNet(config.unet),
        "vae": VideoAutoencoder(config.vae),
        "image_encoder": ImageEncoder(config.image_encoder),
    }
