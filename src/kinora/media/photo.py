"""A photo from anywhere, as upright RGB, and fitted to the size that a model wants."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from kinora.errors import MediaError, RequestError, TooLargeError
from kinora.media.picture import FORMATS, check_pixels, header, quiet
from kinora.media.rgb import to_rgb

__all__ = ["MAX_BYTES", "Photo", "fit", "load_photo"]

Photo = str | Path | bytes | Image.Image | Shaped[np.ndarray, "..."]
"""A path, the bytes of an image file, a PIL image, or a uint8 array [h, w, 3] (also [h, w] grey
and [h, w, 4] with alpha)."""

MAX_BYTES: Final = 64 * 2**20
"""Largest file that is read."""


def load_photo(source: Photo, *, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """A photo as an RGB picture, upright, with transparent parts over white.

    source: JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame), of any depth and colour model, as
        a path or as bytes; or a PIL image; or a uint8 array [h, w, 3], [h, w] or [h, w, 4].
    formats: those of files that may be opened, under Pillow's names.
    Raises MediaError when it is missing, no picture, damaged, larger than `MAX_BYTES`, or has
    more than 64 million pixels; sizes are checked before anything is decoded. Pixels
    that a file has no data for are an error or black, never what was in memory before: so a TIFF
    compressed as JPEG or fax is refused with Pillow before 13.
    """
    if isinstance(source, np.ndarray):
        return to_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        name = "the photo"
        check_pixels(source, name)
        return _decoded(lambda: source, name)
    if isinstance(source, bytes):
        name, data = "the photo", source
        _check_bytes(len(data), name)
    else:
        path = Path(source)
        name, data = str(path), _read(path)
    return _decoded(lambda: header(io.BytesIO(data), name, formats), name)


def fit(photo: Image.Image, size: tuple[int, int], how: str = "crop") -> UInt8[np.ndarray, "h w 3"]:
    """A photo at exactly this size, resampled with an antialiasing Lanczos filter.

    size: width and height in pixels.
    how: "crop" covers the size and cuts off what juts out, evenly on both sides; "pad" shows the
        whole photo, centred on black; "stretch" changes its shape.
    Raises RequestError for another `how` or an empty size.
    """
    width, height = size
    if width < 1 or height < 1:
        raise RequestError(f"size {width}x{height}: must be at least 1x1")
    if how == "crop":
        fitted = _resized(photo, size, _centre(photo.size, size))
    elif how == "stretch":
        fitted = _resized(photo, size)
    elif how == "pad":
        scale = min(width / photo.width, height / photo.height)
        inner = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
        fitted = Image.new("RGB", size)
        fitted.paste(_resized(photo, inner), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    else:
        raise RequestError(f"fit {how!r}: must be one of crop, pad, stretch")
    return np.array(fitted)


def _resized(
    photo: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    return photo.convert("RGB").resize(size, Image.Resampling.LANCZOS, box)


def _centre(photo: tuple[int, int], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest part of the photo, in its middle, that has the shape of `size`."""
    (w, h), (width, height) = photo, size
    if w * height >= h * width:  # in whole numbers, so that an equal shape loses nothing
        inner = h * width / height
        return ((w - inner) / 2, 0.0, (w + inner) / 2, float(h))
    inner = w * height / width
    return (0.0, (h - inner) / 2, float(w), (h + inner) / 2)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise MediaError(f"{path}: a folder, not a photo. Name a picture file")
        if not path.exists():
            raise MediaError(f"{path}: no such file. Check the name and the folder")
        if not path.is_file():
            raise MediaError(f"{path}: not an ordinary file. Name a picture file")
        _check_bytes(path.stat().st_size, str(path))
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{path}: can't be read: {reason}") from error


def _check_bytes(count: int, name: str) -> None:
    if count == 0:
        raise TooLargeError(f"{name}: empty, it holds no picture. Fetch or export it again")
    if count > MAX_BYTES:
        raise TooLargeError(
            f"{name}: {count / 2**20:.0f} MiB; photos of at most {MAX_BYTES // 2**20} MiB are "
            "read. Scale it down first"
        )


def _decoded(source: Callable[[], Image.Image], name: str) -> Image.Image:
    try:
        with quiet():
            image = source()
            image.load()
            return to_rgb(image)
    except MediaError:
        raise
    except MemoryError:
        raise MediaError(f"{name}: too large for this machine's memory") from None
    except Exception as error:  # damaged files make the decoders raise nearly anything
        raise MediaError(
            f"{name}: damaged or cut off, it can't be decoded ({error}). Fetch or export it again"
        ) from error


def _from_array(array: Shaped[np.ndarray, "..."]) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise MediaError(
            f"an array {list(array.shape)} of {array.dtype}: a photo is a uint8 array [h, w, 3] "
            "with values from 0 to 255"
        )
    if array.size == 0:
        raise MediaError(f"an array {list(array.shape)}: it holds no pixels")
    image = Image.fromarray(
        np.ascontiguousarray(array.squeeze(2) if channels == 1 == array.ndim - 2 else array)
    )
    check_pixels(image, "the photo")
    return image
