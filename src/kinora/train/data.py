"""Frames to train and to measure on: made-up clips, and photos by name."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kinora.media import fit, load_photo
from kinora.synthetic import ClipBatch, SceneConfig, make_clips
from kinora.train.chance import seed_of
from kinora.train.settings import VAETraining
from kinora.types import Frames, Images

__all__ = ["held_out", "read_photos", "to_bytes", "to_pixels", "vae_clips"]


def vae_clips(settings: VAETraining, step: int, device: torch.device) -> Frames:
    """The clips of one step; now and then, as many single frames instead."""
    still = step % settings.still_every == settings.still_every - 1
    clips, frames = (
        (settings.clips * settings.frames, 1) if still else (settings.clips, settings.frames)
    )
    scenes = replace(settings.scenes, width=settings.size, height=settings.size, frames=frames)
    seed = seed_of("vae clips", settings.seed, step)
    return make_clips(scenes, clips, seed, device).frames.contiguous()


def held_out(
    scenes: SceneConfig, clips: int, seed: int, device: torch.device, index: int = 0
) -> ClipBatch:
    """Clips that no step of training sees."""
    return make_clips(scenes, clips, seed_of("held out", seed, index), device)


def read_photos(paths: Sequence[str], width: int, height: int, device: torch.device) -> Images:
    """Photos fitted to a size, in [-1, 1]; none gives an empty batch.

    Raises MediaError when one can't be read.
    """
    photos = [torch.from_numpy(fit(load_photo(p), (width, height), "crop")) for p in paths]
    if not photos:
        return torch.zeros(0, 3, height, width, device=device)
    return to_pixels(torch.stack(photos).permute(0, 3, 1, 2).contiguous().to(device))


def to_pixels(values: Tensor) -> Tensor:
    """Bytes to [-1, 1]."""
    return values.float() / 127.5 - 1


def to_bytes(pixels: Tensor) -> Tensor:
    """[-1, 1], clamped, to bytes, rounded."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
