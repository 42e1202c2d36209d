"""Pictures as other libraries hand them around: PIL images, arrays, and lists of them."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from kinora.errors import KinoraWarning, RequestError
from kinora.media import Photo, load_photo, write_video

__all__ = ["Picture", "as_bytes", "as_pictures", "opened", "write"]

Picture = Image.Image | Shaped[np.ndarray, "..."]
"""A PIL image, an array of floats in [0, 1], or one of bytes."""

RECIPE = "kinora"
"""Where a picture keeps the recipe of its clip, so that it gets into the video file."""


def opened(picture: Photo) -> Image.Image:
    """An RGB picture as it is; any other made so: upright, transparent parts over white."""
    if isinstance(picture, Image.Image) and picture.mode == "RGB":
        return picture
    return load_photo(picture)


def as_pictures(
    frames: UInt8[np.ndarray, "t h w 3"], recipe: Mapping[str, Any]
) -> list[Image.Image]:
    """The frames of a clip as PIL images, which carry its recipe along."""
    pictures = [Image.fromarray(frame) for frame in frames]
    for picture in pictures:
        picture.info[RECIPE] = recipe
    return pictures


def as_bytes(frames: Sequence[Picture] | Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "t h w 3"]:
    """Frames as uint8; floats in [0, 1] are rounded, not cut off.

    Raises RequestError when there are none, or they differ in size.
    """
    pictures = [_bytes(frame) for frame in frames]
    if len({picture.shape for picture in pictures}) != 1:
        sizes = ", ".join(sorted({f"{p.shape[1]}x{p.shape[0]}" for p in pictures})) or "none"
        raise RequestError(f"frames of sizes {sizes}: a video needs some, all of one size")
    return np.stack(pictures)


def write(
    frames: Sequence[Picture] | Shaped[np.ndarray, "..."],
    path: str | Path | None,
    suffix: str,
    fps: int | float,
    quality: int | float | None,
) -> str:
    """Write a video as those libraries do: over what has the name, or under a temporary one.

    Returns the path. The file holds the recipe of frames that a door made.
    """
    if path is None:
        with tempfile.NamedTemporaryFile(suffix=suffix, delete=False) as file:
            path = file.name
    whole = max(1, round(fps))
    if whole != fps:
        warnings.warn(f"fps {fps}: written with {whole}", KinoraWarning, stacklevel=3)
    info: Mapping[str, Any] = getattr(frames[0], "info", {}) if len(frames) else {}
    recipe = cast("Mapping[str, Any]", info.get(RECIPE, {}))
    step = 5 if quality is None else min(10, max(1, round(quality)))
    clip = as_bytes(frames)
    return str(write_video(path, clip, whole, recipe, quality=step, overwrite=True))


def _bytes(frame: Picture) -> UInt8[np.ndarray, "h w 3"]:
    if isinstance(frame, Image.Image):
        return np.asarray(opened(frame))
    if frame.dtype.kind == "f":
        frame = (np.nan_to_num(frame.astype(np.float32)).clip(0, 1) * 255).round().astype(np.uint8)
    return np.asarray(load_photo(frame))
