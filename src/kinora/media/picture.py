"""Opening picture files: which kinds, how large, and what to say of those that are none."""

import re
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from typing import Final

import PIL
from PIL import Image, UnidentifiedImageError

from kinora.errors import MediaError, TooLargeError

__all__ = ["FORMATS", "MAX_PIXELS", "check_pixels", "header", "quiet"]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS: Final = 64_000_000

_SIGNS: Final = (
    (b"%PDF", 0, "it is a PDF document"),
    (b"ftyphei", 4, "it is a HEIC picture"),
    (b"ftypmif1", 4, "it is a HEIF picture"),
    (b"ftypavif", 4, "it is an AVIF picture"),
    (b"ftyp", 4, "it is a video"),
    (b"\x1aE\xdf\xa3", 0, "it is a video"),
    (b"8BPS", 0, "it is a Photoshop document"),
    (b"PK\x03\x04", 0, "it is an archive"),
)

_LEAVES_REST: Final = int(PIL.__version__.partition(".")[0]) < 13
_WHOLE: Final = (
    *("raw", "packbits", "lzma", "zstd"),
    *("tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"),
)
"""Compressions of TIFFs whose decoders fail where rows are missing."""

_lock = threading.Lock()


@contextmanager
def quiet() -> Generator[None, None, None]:
    """No warnings from Pillow: what matters becomes an error, the rest concerns nobody.

    Filters of warnings belong to the whole process, hence one thread at a time.
    """
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def header(
    file: BytesIO | BufferedReader, name: str, formats: tuple[str, ...] = FORMATS
) -> Image.Image:
    """Open a picture without decoding its pixels.  (Call it inside `quiet`.)

    name: how messages call it. formats: those that may be opened.
    Raises MediaError when it is no picture of the known kinds, or has too many pixels.
    """
    try:
        image = Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        raise _too_large(name, f"{count[0]} pixels" if count else "far more pixels") from None
    except UnidentifiedImageError:
        file.seek(0)
        raise MediaError(
            f"{name}: not a picture that Kinora can read, {_guess(file.read(4096))}. "
            f"Save it as {_listed(formats)}"
        ) from None
    check_pixels(image, name)
    _check_compression(image, name)
    return image


def check_pixels(image: Image.Image, name: str) -> None:
    """Refuse more than `MAX_PIXELS` by what the header says."""
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, f"{image.width}x{image.height} pixels")


def _check_compression(image: Image.Image, name: str) -> None:
    """Refuse what Pillow may not decode to the end: the rest would show what was in memory before.

    (GHSA-q45j-58j2-45rg)
    """
    if _LEAVES_REST and image.format == "TIFF" and image.info.get("compression") not in _WHOLE:
        raise MediaError(
            f"{name}: a TIFF compressed as {image.info.get('compression')}, which Pillow "
            f"{PIL.__version__} doesn't read safely. Save it as PNG, or install Pillow 13"
        )


def _listed(formats: tuple[str, ...]) -> str:
    *names, last = ("WebP" if name == "WEBP" else name for name in formats)
    return f"{', '.join(names)} or {last}"


def _too_large(name: str, size: str) -> TooLargeError:
    return TooLargeError(
        f"{name}: {size}; at most {MAX_PIXELS // 10**6} million are read. Scale it down first"
    )


def _guess(start: bytes) -> str:
    for sign, offset, meaning in _SIGNS:
        if start[offset:].startswith(sign):
            return meaning
    if b"<svg" in start:
        return "it is an SVG drawing"
    try:
        start.decode()
    except UnicodeDecodeError:
        return "it is of an unknown kind or damaged"
    return "it is a text file"
