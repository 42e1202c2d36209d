"""What DiffSynth does with latents before, between and after the steps of sampling."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from kinora.finite import require_finite
from kinora.pipeline import Pipeline
from kinora.pixels import to_pixels
from kinora.types import Frames, Latents

__all__ = ["Keyframes", "decode_overlapping", "encode_frames", "equalise"]

Frame = Float[Tensor, "t c h w"]

WINDOW: Final = 8
STRIDE: Final = 4
"""Frames decoded at a time, and how many further on the next ones start."""


class Keyframes(NamedTuple):
    """Frames of a clip that are given."""

    ids: list[int]
    latents: Frame
    """Clean ones."""
    noise: Frame
    """Of the whole clip; each keyframe always gets the noise of its place."""

    def put_back(self, x: Latents, sigma: float) -> Latents:
        """Replace the keyframes' places by their latents with noise of this level."""
        if not self.ids:
            return x
        x = x.clone()
        x[0, self.ids] = self.latents + sigma * self.noise[self.ids]
        return x


def encode_frames(pipeline: Pipeline, frames: Sequence[Image.Image]) -> Frame:
    """Clean latents of frames, each by itself, scaled as the sampler wants them.

    DiffSynth multiplies by SDXL's 0.13025 here, which makes SVD's latents 0.715 times their size;
    this is the model's own scale.
    """
    starts = range(0, len(frames), WINDOW)
    windows = [to_pixels([np.asarray(f) for f in frames[i : i + WINDOW]]) for i in starts]
    moments = torch.cat(pipeline.encode_vae([w.to(pipeline.device) for w in windows]))
    mode = require_finite(moments.chunk(2, dim=1)[0], "the VAE encoder's output", moments.dtype)
    return mode * pipeline.config.vae.scale


def equalise(latents: Latents) -> Latents:
    """Give each frame the clip's mean and deviation, against flicker and drift in brightness."""
    own = latents.std(dim=(2, 3, 4), keepdim=True).clamp(min=1e-6)
    centred = (latents - latents.mean(dim=(2, 3, 4), keepdim=True)) / own
    whole = latents.std(dim=(1, 2, 3, 4), keepdim=True)
    return centred * whole + latents.mean(dim=(1, 2, 3, 4), keepdim=True)


def decode_overlapping(pipeline: Pipeline, latents: Latents) -> Frames:
    """Decode windows of 8 frames that start 4 apart, each fading into the next; not clamped."""
    total = latents.shape[1]
    height, width = (side * pipeline.config.vae.factor for side in latents.shape[3:])
    frames = latents.new_zeros((len(latents), total, 3, height, width))
    weights = latents.new_zeros((total, 1, 1, 1))
    for start, stop in _windows(total):
        weight = _fade(start, stop, total).to(latents.device)[:, None, None, None]
        decoded = next(pipeline.decode(latents[:, start:stop]))
        frames[:, start:stop] += decoded * weight
        weights[start:stop] += weight
    return frames / weights


def _windows(total: int) -> Iterator[tuple[int, int]]:
    for start in range(0, total, STRIDE):
        yield start, min(start + WINDOW, total)
        if start + WINDOW >= total:
            return


def _fade(start: int, stop: int, total: int) -> Float[Tensor, " n"]:
    """1 at the edge of the window, rising by 1 a frame inwards; flat towards an end of the clip."""
    index = torch.arange(stop - start, dtype=torch.float32, device="cpu")
    rising = index + 1 if start > 0 else torch.full_like(index, WINDOW)
    falling = (stop - start) - index if stop < total else torch.full_like(index, WINDOW)
    return torch.minimum(rising, falling)
