"""The photos of a call in diffusers' manner: each one twice, unresized and stretched."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kinora.compat.pictures import opened
from kinora.errors import RequestError
from kinora.media import Photo, fit
from kinora.pixels import to_pixels

__all__ = ["Photos", "read_photos"]


Pixels = Float[Tensor, "_ 3 _ _"]
"""Pictures of any size, in [-1, 1]."""


class Photos(NamedTuple):
    """What the networks see of the photos, in [-1, 1]."""

    seen: list[Pixels]
    """For the image encoder: each photo in its own size."""
    fitted: Pixels
    """For the autoencoder: stretched to the size of the clip."""


def read_photos(image: Photo | Tensor | Sequence[Photo | Tensor], size: tuple[int, int]) -> Photos:
    """Read what diffusers takes as `image`.

    image: a PIL image, a tensor [3, h, w] or [b, 3, h, w], or a list of either; also whatever else
        Kinora takes for a photo. Tensors are in [0, 1], or in [-1, 1] if anything in one is
        negative.
    size: width and height of the clip.
    """
    items: list[Photo | Tensor] = [*image] if isinstance(image, list | tuple) else [image]  # pyright: ignore[reportAssignmentType]  (a Sequence that is a photo is bytes)
    pairs = [pair for item in items for pair in _pairs(item, size)]
    if not pairs:
        raise RequestError("no image: at least one photo is needed")
    return Photos([seen for seen, _ in pairs], torch.cat([fitted for _, fitted in pairs]))


def _pairs(item: Photo | Tensor, size: tuple[int, int]) -> list[tuple[Pixels, Pixels]]:
    if isinstance(item, Tensor):
        return [(pixels[None], _stretched(pixels[None], size)) for pixels in _from_tensor(item)]
    photo = opened(item)
    return [(to_pixels([np.asarray(photo)]), to_pixels([fit(photo, size, "stretch")]))]


def _from_tensor(tensor: Float[Tensor, "..."]) -> Pixels:
    batch = tensor[None] if tensor.ndim == 3 else tensor
    if batch.ndim != 4 or batch.shape[1] != 3 or not batch.is_floating_point():
        raise RequestError(
            f"image of shape {list(tensor.shape)} ({tensor.dtype}): a tensor must be [3, h, w] or "
            "[b, 3, h, w], with floats from 0 to 1"
        )
    batch = batch.float()
    return batch if batch.min() < 0 else batch * 2 - 1


def _stretched(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """As diffusers stretches tensors: by the nearest pixel."""
    return F.interpolate(pixels, (size[1], size[0]), mode="nearest")
