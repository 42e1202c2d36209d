"""Sample clips while training: what the averaged weights make of pictures never learnt from."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from kinora.config import ModelConfig
from kinora.diffusion import euler, guided, karras
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet
from kinora.train.cache import unet_scenes
from kinora.train.chance import draws
from kinora.train.data import held_out, read_photos
from kinora.train.settings import UNetTraining
from kinora.train.sheet import write_sheet
from kinora.types import Condition, Frames, Images

__all__ = ["make_sampling", "sample_clips"]

MADE_UP = 2
MOTIONS = (30.0, 200.0)


class Networks(Protocol):
    """UNet and image encoder."""

    unet: VideoUNet
    image_encoder: ImageEncoder


def make_sampling(
    settings: UNetTraining,
    config: ModelConfig,
    vae: VideoAutoencoder,
    networks: Networks,
    folder: Path,
) -> Callable[[int], None]:
    """A function of the step that writes a contact sheet of that number.

    Rows: unseen made-up pictures, then the photos, each with little motion and with much. The
    first column is the picture itself.
    """
    device = next(vae.parameters()).device
    scenes = replace(unet_scenes(settings), frames=1)
    made_up = held_out(scenes, MADE_UP, settings.seed).frames[:, 0]
    photos = read_photos(settings.photos, settings.width, settings.height)
    images = torch.cat([made_up, photos]).to(device)

    def sample(step: int) -> None:
        shown = images[:, None]
        rows: list[Frames] = []
        for motion in MOTIONS:
            clips = [
                sample_clips(networks, vae, config, image[None], motion, settings.sample_steps)
                for image in images
            ]
            rows.append(torch.cat([shown, torch.cat(clips)], dim=1))
        write_sheet(folder / f"{step:07}.png", rows)

    return sample


@torch.no_grad()
def sample_clips(
    networks: Networks,
    vae: VideoAutoencoder,
    config: ModelConfig,
    images: Images,
    motion: float,
    steps: int,
) -> Frames:
    """Clips of pictures, with the model's own guidance, fps and noise_aug, and a fixed seed."""
    b, device = len(images), images.device
    generator = draws("sample", 0)
    pixel_noise = torch.randn(images.shape, generator=generator).to(device)
    image = vae.encode(images + config.noise_aug * pixel_noise).chunk(2, dim=1)[0]
    vector = torch.tensor([[config.fps - 1.0, motion, config.noise_aug]], device=device)
    condition = Condition(image[:, None], networks.image_encoder(images), vector.expand(b, -1))
    scale = torch.linspace(*config.guidance, config.frames, device=device).expand(b, -1)
    sigmas = karras(steps, config.sigma_min, config.sigma_max, config.rho)
    shape = (b, config.frames, *image.shape[1:])
    x = torch.randn(shape, generator=generator).to(device) * math.sqrt(1 + sigmas[0] ** 2)
    for step in euler(guided(networks.unet, condition, scale), x, sigmas):
        x = step.x
    return vae.decode(x / config.vae.scale).clamp(-1, 1)
