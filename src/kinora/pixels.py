"""Pixels as bytes and as the networks see them."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kinora.types import Frames, Images

__all__ = ["from_bytes", "quantise", "to_bytes", "to_pixels"]


def to_pixels(pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> Images:
    """Pictures as the networks see them, in [-1, 1]."""
    return from_bytes(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))


def quantise(frames: Frames) -> UInt8[np.ndarray, "b t height width 3"]:
    """Clamp and round to bytes, on the device, before anything is copied from it."""
    return to_bytes(frames).permute(0, 1, 3, 4, 2).cpu().numpy()


def from_bytes(values: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """0–255 to [-1, 1]."""
    return values.float() / 255 * 2 - 1


def to_bytes(pixels: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """[-1, 1], clamped, to 0–255, rounded."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
