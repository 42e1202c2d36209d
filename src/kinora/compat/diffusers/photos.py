"""The photos of a call in diffusers' manner: each one twice, unresized and stretched."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kinora.errors import RequestError
from kinora.media import Photo
from kinora.photo_cache import PhotoCache
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


def read_photos(
    image: Photo | Tensor | Sequence[Photo | Tensor], size: tuple[int, int], cache: PhotoCache
) -> Photos:
    """Read what diffusers takes as `image`.

    image: a PIL image, a tensor [3, h, w] or [b, 3, h, w], or a list of either; also whatever else
        Kinora takes for a photo. Tensors are in [0, 1], or in [-1, 1] if anything in one is
        negative.
    size: width and height of the clip.
    cache: reads each photo once, however often it is in the list.
    """
    items: list[Photo | Tensor] = [*image] if isinstance(image, list | tuple) else [image]  # pyright: ignore[reportAssignmentType]  (a Sequence that is a photo is bytes)
    pictures = cache.read([item for item in items if not isinstance(item, Tensor)])
    pairs = zip(pictures, cache.fitted(pictures, size, "stretch"), strict=True)
    seen: list[Pixels] = []
    fitted: list[Pixels] = []
    for item in items:
        if isinstance(item, Tensor):
            seen += torch.split(_from_tensor(item), 1)
            fitted += [_stretched(pixels, size) for pixels in seen[len(fitted) :]]
        else:
            photo, stretched = next(pairs)
            seen.append(to_pixels([np.asarray(photo)]))
            fitted.append(to_pixels([stretched]))
    if not seen:
        raise RequestError("no image: at least one photo is needed")
    return Photos(seen, torch.cat(fitted))


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
