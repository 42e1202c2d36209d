"""The photos of a call in diffusers' manner: each one twice, unresized and stretched."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from kinora.compat.pictures import opened
from kinora.errors import RequestError
from kinora.media import Photo
from kinora.photo_cache import PhotoCache
from kinora.pixels import to_pixels

__all__ = ["Given", "Item", "open_photos", "stretched", "unresized"]


Pixels = Float[Tensor, "_ 3 _ _"]
"""Pictures of any size, in [-1, 1]."""


Given = Photo | Tensor | Sequence[Photo | Tensor]
"""What diffusers takes as `image`: a PIL image, a tensor [3, h, w] or [b, 3, h, w], or a list of
either; also whatever else Kinora takes for a photo. Tensors are in [0, 1], or in [-1, 1] if
anything in one is negative."""

Item = Image.Image | Tensor


def open_photos(image: Given, cache: PhotoCache) -> Item | list[Item]:
    """The same with all photos opened, each once however often it is in the list.

    Raises RequestError when there are none, MediaError when one can't be read.
    """
    listed = isinstance(image, list | tuple)
    items: list[Photo | Tensor] = [*image] if listed else [image]  # pyright: ignore[reportAssignmentType]  (a Sequence that is a photo is bytes)
    photos = iter(cache.read([item for item in items if not isinstance(item, Tensor)]))
    found = [item if isinstance(item, Tensor) else next(photos) for item in items]
    if not found:
        raise RequestError("no image: at least one photo is needed")
    return found if listed else found[0]


def unresized(image: Item | list[Item]) -> list[Pixels]:
    """What the image encoder sees: each photo in its own size."""
    pixels: list[Pixels] = []
    for item in image if isinstance(image, list) else [image]:
        whole = isinstance(item, Tensor)
        batch = _from_tensor(item) if whole else to_pixels([np.asarray(opened(item))])
        pixels += torch.split(batch, 1)
    return pixels


def stretched(image: Item | list[Item], size: tuple[int, int], cache: PhotoCache) -> Pixels:
    """What the autoencoder sees: stretched to the size of the clip, width and height; tensors, as
    in diffusers, by the nearest pixel."""
    items = image if isinstance(image, list) else [image]
    photos = [item for item in items if not isinstance(item, Tensor)]
    fitted = iter(cache.fitted(photos, size, "stretch"))
    return torch.cat(
        [
            F.interpolate(_from_tensor(item), (size[1], size[0]), mode="nearest")
            if isinstance(item, Tensor)
            else to_pixels([next(fitted)])
            for item in items
        ]
    )


def _from_tensor(tensor: Float[Tensor, "..."]) -> Pixels:
    batch = tensor[None] if tensor.ndim == 3 else tensor
    if batch.ndim != 4 or batch.shape[1] != 3 or not batch.is_floating_point():
        raise RequestError(
            f"image of shape {list(tensor.shape)} ({tensor.dtype}): a tensor must be [3, h, w] or "
            "[b, 3, h, w], with floats from 0 to 1"
        )
    batch = batch.float()
    return batch if batch.min() < 0 else batch * 2 - 1
