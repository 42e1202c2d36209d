"""A photo from anywhere, as upright RGB, and fitted to the size that a model wants."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from kinora.arguments import as_choice, as_path, as_size, shown
from kinora.errors import MediaError, TooLargeError
from kinora.media.picture import FORMATS, check_pixels, header, quiet
from kinora.media.rgb import to_rgb

__all__ = ["MAX_BYTES", "Photo", "fit", "load_photo"]


@runtime_checkable
class Array(Protocol):
    """An array, or what numpy can make one of, such as a tensor."""

    @property
    def shape(self) -> Any: ...  # noqa: ANN401
    def __array__(self) -> Any: ...  # noqa: ANN401


@runtime_checkable
class Stream(Protocol):
    """An open file."""

    def read(self, size: int, /) -> Any: ...  # noqa: ANN401


Photo = str | os.PathLike[str] | bytes | bytearray | memoryview | Stream | Image.Image | Array
"""A path, the bytes of an image file, a file opened for reading bytes, a PIL image, or an array or
tensor [h, w, 3] or [3, h, w] of bytes or of floats in [0, 1] (also [h, w] grey, and 4 channels with
alpha)."""

MAX_BYTES: Final = 64 * 2**20
"""Largest file that is read."""


def load_photo(source: Photo, *, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """A photo as an RGB picture, upright, with transparent parts over white.

    source: JPEG, PNG, WebP, BMP, TIFF or GIF (its first frame), of any depth and colour model, as
        a path, as bytes or as an open file; or a PIL image; or an array or tensor [h, w, 3],
        [3, h, w] or [h, w], uint8 or floats in [0, 1]; 4 channels hold alpha, too.
    formats: those of files that may be opened, under Pillow's names.
    Raises MediaError when it is missing, no picture, damaged, larger than `MAX_BYTES`, or has
    more than 64 million pixels; sizes are checked before anything is decoded. Pixels
    that a file has no data for are an error or black, never what was in memory before: so a TIFF
    compressed as JPEG or fax is refused with Pillow before 13.
    """
    given = cast("object", source)
    if isinstance(given, Image.Image):
        check_pixels(given, "the photo")
        return _decoded(lambda: given, "the photo")
    if isinstance(given, str | os.PathLike):
        path = as_path("photo", cast("object", given))
        return _from_bytes(_read(path), str(path), formats)
    if isinstance(given, Array) and not isinstance(given, type):
        return to_rgb(_from_array(_as_array(given)))
    if isinstance(given, Stream) and not isinstance(given, type):
        given = _from_stream(given)
    if isinstance(given, bytes | bytearray | memoryview):
        data = cast("bytes | bytearray", given)
        _check_bytes(memoryview(data).nbytes, "the photo")
        return _from_bytes(bytes(data), "the photo", formats)
    raise MediaError(
        f"photo {shown(given)}: must be a path, the bytes of a picture file, a PIL image, or an "
        "array or tensor [h, w, 3] or [3, h, w]"
    )


def fit(photo: Photo, size: tuple[int, int], how: str = "crop") -> UInt8[np.ndarray, "h w 3"]:
    """A photo at exactly this size, resampled with an antialiasing Lanczos filter.

    size: width and height in pixels.
    how: "crop" covers the size and cuts off what juts out, evenly on both sides; "pad" shows the
        whole photo, centred on black; "stretch" changes its shape.
    Raises RequestError for another `how` or an empty size.
    """
    photo = photo if isinstance(photo, Image.Image) else load_photo(photo)
    width, height = size = as_size("size", size)
    as_choice("fit", how, ("crop", "pad", "stretch"))
    if how == "crop":
        fitted = _resized(photo, size, _centre(photo.size, size))
    elif how == "stretch":
        fitted = _resized(photo, size)
    else:
        scale = min(width / photo.width, height / photo.height)
        inner = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
        fitted = Image.new("RGB", size)
        fitted.paste(_resized(photo, inner), ((width - inner[0]) // 2, (height - inner[1]) // 2))
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


def _from_bytes(data: bytes, name: str, formats: tuple[str, ...]) -> Image.Image:
    return _decoded(lambda: header(io.BytesIO(data), name, formats), name)


def _from_stream(stream: Stream) -> bytes:
    """What an open file holds, at most a byte more than is allowed.

    Raises MediaError when it can't be read as bytes.
    """
    try:
        data = stream.read(MAX_BYTES + 1)
    except Exception as error:  # whatever its class raises
        raise MediaError(f"photo {shown(stream)}: can't be read: {error}") from error
    if not isinstance(data, bytes | bytearray):
        raise MediaError(f"photo {shown(stream)}: open it for reading bytes, in mode 'rb'")
    return bytes(data)


def _as_array(source: Array) -> Shaped[np.ndarray, "..."]:
    """An array of whatever numpy can make one of; torch's tensors from any device."""
    try:
        if hasattr(source, "detach"):
            tensor = cast(Any, source).detach().cpu()
            source = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
        return np.asarray(source)
    except Exception as error:  # such as a tensor without values
        raise MediaError(f"photo {shown(source)}: its values can't be read: {error}") from error


def _from_array(array: Shaped[np.ndarray, "..."]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    channels = array.shape[2] if array.ndim == 3 else 1
    whole = array.dtype == np.uint8
    if (
        not (whole or array.dtype.kind == "f")
        or array.ndim not in (2, 3)
        or channels not in (1, 3, 4)
    ):
        raise MediaError(
            f"an array {list(array.shape)} of {array.dtype}: a photo is an array [h, w, 3] or "
            "[3, h, w], uint8 with values from 0 to 255 or floats with values from 0 to 1"
        )
    if array.size == 0:
        raise MediaError(f"an array {list(array.shape)}: it holds no pixels")
    if not whole:
        if not (array.min() >= 0 and array.max() <= 1):
            raise MediaError(
                f"an array of {array.dtype} with values from {array.min():g} to {array.max():g}: "
                "floats must be from 0 to 1"
            )
        array = np.rint(array * 255).astype(np.uint8)
    image = Image.fromarray(
        np.ascontiguousarray(array.squeeze(2) if channels == 1 == array.ndim - 2 else array)
    )
    check_pixels(image, "the photo")
    return image
