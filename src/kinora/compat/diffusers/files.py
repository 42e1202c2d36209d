"""diffusers' `load_image`, `export_to_video` and `export_to_gif`."""

import io
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Shaped
from numpy import ndarray
from PIL import Image, ImageOps

from kinora.compat.pictures import Picture, write
from kinora.errors import KinoraWarning, MediaError
from kinora.media import load_photo
from kinora.media.photo import MAX_BYTES

__all__ = ["export_to_gif", "export_to_video", "load_image"]

TIMEOUT = 30
"""Seconds that a web server may be silent."""


def load_image(
    image: str | Path | Image.Image,
    convert_method: Callable[[Image.Image], Image.Image] | None = None,
) -> Image.Image:
    """A picture from a web address, a file or PIL, upright and RGB.

    convert_method: makes what it will of the upright picture, in place of the conversion to RGB.
    Raises MediaError when it can't be fetched or is no picture.
    """
    source = image
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        source = _fetched(image)
    photo = load_photo(source)
    if convert_method is None:
        return photo
    raw = source if isinstance(source, Image.Image) else Image.open(_file(source))
    return convert_method(ImageOps.exif_transpose(raw))


def export_to_video(
    video_frames: Sequence[Picture] | Shaped[ndarray, "..."],
    output_video_path: str | Path | None = None,
    fps: int | float = 10,
    quality: int | float | None = 5.0,
    bitrate: int | None = None,
    macro_block_size: int | None = 16,
) -> str:
    """Write frames as a video and return its path; replaces a file of that name.

    video_frames: PIL images, or arrays of floats in [0, 1] (or bytes).
    output_video_path: .mp4, .webm, .gif or .webp; a temporary .mp4 when left out.
    quality: 0 to 10.
    bitrate: not kept, with a warning: `quality` decides.
    macro_block_size: not needed: frames are never scaled.
    """
    if bitrate is not None:
        warnings.warn(
            f"bitrate {bitrate}: not kept, quality alone decides", KinoraWarning, stacklevel=2
        )
    return write(video_frames, output_video_path, ".mp4", fps, quality)


def export_to_gif(
    image: Sequence[Picture] | Shaped[ndarray, "..."],
    output_gif_path: str | Path | None = None,
    fps: int | float = 10,
) -> str:
    """Write frames as a GIF and return its path; a temporary one when left out."""
    return write(image, output_gif_path, ".gif", fps, None)


def _file(source: str | Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else Path(source)


def _fetched(address: str) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": "kinora"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.read(MAX_BYTES + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise MediaError(
            f"{address}: can't be fetched ({reason}). Check the address and the network, or name "
            "a file on disk"
        ) from error
