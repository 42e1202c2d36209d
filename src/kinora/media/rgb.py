"""Whatever a picture file can hold, as upright 8-bit sRGB."""

import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageCms

__all__ = ["to_rgb"]

_ORIENTATION: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How each EXIF orientation is undone."""

_BAND: Final = 1 << 20
"""Pixels that are converted at a time."""

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF 6.0


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture as its viewer means it: upright, RGB, transparent parts over white.

    Grey of more than 8 bits is scaled by its full range (65535 is white, not 255). Floating-point
    grey is taken as [0, 1] if it keeps to that, else as 8 or 16 bits, else by its maximum. An
    embedded colour profile, CMYK ones included, is converted to sRGB.
    """
    turn = _TURNS.get(_orientation(image))
    if image.mode == "F" or image.mode.startswith("I"):
        image = _deep_grey(image)
    elif image.has_transparency_data:
        profile: bytes | None = image.info.get("icc_profile")
        image = _over_white(image)
        image = _to_srgb(image, profile)
    else:
        profile = image.info.get("icc_profile")
        image = _to_srgb(image if image.mode == "CMYK" else image.convert("RGB"), profile)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF raises nearly anything, and the pixels are fine without it
        return 1


def _over_white(image: Image.Image) -> Image.Image:
    made = Image.new("RGB", image.size)
    for top, band in _bands(image):
        if band.mode == "La":  # premultiplied, which converts to LA only
            band = band.convert("LA")
        band = band.convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        made.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return made


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Some rows at a time, with the first one's number: so a large picture takes little memory."""
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """From the embedded profile's colours; a profile that is sRGB or broken changes nothing."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if "sRGB" not in ImageCms.getProfileDescription(source):
                converted = ImageCms.profileToProfile(image, source, _srgb(), outputMode="RGB")
                image = converted or image
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))  # pyright: ignore[reportUnknownArgumentType]


def _deep_grey(image: Image.Image) -> Image.Image:
    tags: dict[int, Any] = dict(getattr(image, "tag_v2", {}))
    unsigned = tags.get(_SAMPLE_FORMAT, (1,))[0] == 1
    as_unsigned = image.mode == "I" and unsigned and tags.get(_BITS, (0,))[0] == 32

    def values(band: Image.Image) -> Shaped[np.ndarray, "h w"]:
        stored = np.asarray(band)
        return stored.view(np.uint32) if as_unsigned else stored  # Pillow reads them as signed

    full_scale = _full_scale([_highest(values(band)) for _, band in _bands(image)])
    white_is_zero = image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0
    made = Image.new("RGB", image.size)
    for top, band in _bands(image):
        grey = _scaled(values(band), full_scale)
        # Pillow undoes it for 8 bits only.
        made.paste(Image.fromarray(255 - grey if white_is_zero else grey).convert("RGB"), (0, top))
    return made


def _highest(values: Shaped[np.ndarray, "h w"]) -> np.generic:
    """The greatest value that is a number, of the type of all."""
    if values.dtype.kind != "f":
        return values.max()
    finite = values[np.isfinite(values)]
    return finite.max() if finite.size else values.dtype.type(1)


def _full_scale(highest: Sequence[np.generic]) -> float:
    """The value that means white, by the highest of each part."""
    values = np.array(highest)
    if values.dtype == np.uint16:
        return 65535.0
    most = float(values.max())
    if values.dtype.kind == "f":
        return next((scale for scale in (1.0, 255.0, 65535.0) if most <= scale), most)
    return 65535.0 if most <= 65535 else float(np.iinfo(values.dtype.name).max)


def _scaled(values: Shaped[np.ndarray, "h w"], full_scale: float) -> UInt8[np.ndarray, "h w"]:
    relative = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=full_scale, neginf=0.0)
    return np.rint(np.clip(relative / full_scale, 0, 1) * 255).astype(np.uint8)
