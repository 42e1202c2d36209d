"""Which picture formats of clients are opened, and why the others aren't."""

from typing import Final

from kinora.serve.errors import Invalid

__all__ = ["OPENED", "check_format"]

OPENED: Final = ("JPEG", "PNG", "WEBP")
"""Pillow's names. What can't be opened by these decoders is no photo here."""

_REFUSED: Final = {
    "TIFF": ("GHSA-q45j-58j2-45rg", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    "BMP": ("GHSA-24rc-8hj2-v98c", (b"BM",)),
    "GIF": ("GHSA-22hg-r758-rrw9", (b"GIF8",)),
}
"""Formats whose decoders have known faults in Pillow before 13.0.0, which Gradio doesn't allow: the
advisory, and how such files begin. `tools/audit.py` tells whether that still holds."""


def check_format(data: bytes) -> None:
    """Raises Invalid for a picture whose decoder has a known fault, with the reason."""
    for name, (advisory, starts) in _REFUSED.items():
        if data.startswith(starts):
            raise Invalid(
                f"the photo is a {name} picture, which this service doesn't open: the decoder for "
                f"{name} has a known fault ({advisory}). Convert it to JPEG, PNG or WebP"
            )
