"""A whole model with random weights that runs in milliseconds."""

from dataclasses import replace

import torch
from torch import nn

from kinora.config import TINY, ModelConfig
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet
from kinora.pipeline import Pipeline
from kinora.weights import Networks

__all__ = ["enliven", "tiny_pipeline"]


def enliven(module: nn.Module) -> None:
    """Give the parameters that start at zero something to do, and the blends weight."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)


def tiny_pipeline(config: ModelConfig = TINY, dtype: torch.dtype = torch.float32) -> Pipeline:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet, vae = VideoUNet(config.unet), VideoAutoencoder(config.vae)
        image_encoder = ImageEncoder(config.image_encoder)
        for network in (unet, vae):
            enliven(network)
    for network in (unet, vae.decoder, image_encoder):
        network.to(dtype)
    for network in (unet, vae, image_encoder):
        network.eval().requires_grad_(False)
    name = replace(config, name="tiny")
    return Pipeline(Networks(name, unet, vae, image_encoder, fingerprint="random", notes=()))
