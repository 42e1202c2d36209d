"""Whatever a picture file can hold, as upright 8-bit sRGB."""

import io
from typing import Any, Final

import numpy as np
from jaxtyping import Int, Shaped, UInt8
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
    if image.mode == "La":  # premultiplied, which converts to LA only
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


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
    return image.convert("RGB")


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))  # pyright: ignore[reportUnknownArgumentType]


def _deep_grey(image: Image.Image) -> Image.Image:
    tags: dict[int, Any] = dict(getattr(image, "tag_v2", {}))
    values = np.asarray(image)
    unsigned = tags.get(_SAMPLE_FORMAT, (1,))[0] == 1
    if image.mode == "I" and unsigned and tags.get(_BITS, (0,))[0] == 32:
        values = values.view(np.uint32)  # Pillow reads them as signed
    grey = _scaled(values, _full_scale(values))
    if image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0:
        grey = 255 - grey  # white is zero, which Pillow undoes for 8 bits only
    return Image.fromarray(grey).convert("RGB")


def _full_scale(values: Shaped[np.ndarray, "h w"]) -> float:
    """The value that means white."""
    if values.dtype == np.uint16:
        return 65535.0
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        highest = float(finite.max()) if finite.size else 1.0
        return next((scale for scale in (1.0, 255.0, 65535.0) if highest <= scale), highest)
    integers: Int[np.ndarray, "h w"] = values
    return 65535.0 if integers.max() <= 65535 else float(np.iinfo(integers.dtype).max)


def _scaled(values: Shaped[np.ndarray, "h w"], full_scale: float) -> UInt8[np.ndarray, "h w"]:
    relative = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=full_scale, neginf=0.0)
    return np.rint(np.clip(relative / full_scale, 0, 1) * 255).astype(np.uint8)
