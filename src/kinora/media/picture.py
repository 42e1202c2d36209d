"""Opening picture files: which kinds, how large, and what to say of those that are none."""

import re
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from typing import Final

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

_lock = threading.Lock()


@contextmanager
def quiet() -> Generator[None, None, None]:
    """No warnings from Pillow: what matters becomes an error, the rest concerns nobody.

    Filters of warnings belong to the whole process, hence one thread at a time.
    """
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def header(file: BytesIO | BufferedReader, name: str) -> Image.Image:
    """Open a picture without decoding its pixels.  (Call it inside `quiet`.)

    name: how messages call it.
    Raises MediaError when it is no picture of the known kinds, or has too many pixels.
    """
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        count = re.search(r"\d+", str(error))
        raise _too_large(name, f"{count[0]} pixels" if count else "far more pixels") from None
    except UnidentifiedImageError:
        file.seek(0)
        raise MediaError(
            f"{name}: not a picture that Kinora can read, {_guess(file.read(4096))}. "
            "Save it as JPEG, PNG, WebP, BMP, TIFF or GIF"
        ) from None
    check_pixels(image, name)
    return image


def check_pixels(image: Image.Image, name: str) -> None:
    """Refuse more than `MAX_PIXELS` by what the header says."""
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, f"{image.width}x{image.height} pixels")


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
