"""Pictures of clips: small ones, and many on one sheet."""

import io
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

__all__ = ["jpeg", "sheet", "small"]

SMALL = 320
"""Pixels of a small picture's longer side."""
CELLS = 16
COLUMNS = 4


def jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def small(picture: Image.Image) -> Image.Image:
    """A copy that fits into SMALL pixels a side."""
    copy = picture.copy()
    copy.thumbnail((SMALL, SMALL))
    return copy


def sheet(frames: UInt8[np.ndarray, "t h w 3"]) -> Image.Image:
    """Up to 16 frames of a clip, evenly chosen, four in a row."""
    chosen = frames[:: math.ceil(len(frames) / CELLS)]
    cells = [small(Image.fromarray(frame)) for frame in chosen]
    width, height = cells[0].size
    made = Image.new("RGB", (COLUMNS * width, math.ceil(len(cells) / COLUMNS) * height))
    for index, cell in enumerate(cells):
        made.paste(cell, (index % COLUMNS * width, index // COLUMNS * height))
    return made
