"""Contact sheets: clips as rows of pictures in one PNG."""

from collections.abc import Sequence
from pathlib import Path

from einops import rearrange
from PIL import Image
from torch import Tensor

from kinora.pixels import to_bytes
from kinora.types import Frames

__all__ = ["write_sheet"]


def write_sheet(path: Path, rows: Sequence[Frames] | Frames) -> Path:
    """Write clips as rows, frames as columns, into a PNG, in one stroke.

    rows: one batch of clips, or several of the same shape, whose rows then alternate: a clip of
    the first, the same of the second, and so on.
    """
    sheet = to_bytes(_interleave(rows)).cpu()
    pixels = rearrange(sheet, "r t c h w -> (r h) (t w) c").contiguous().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    Image.fromarray(pixels).save(partial, format="PNG")
    return partial.replace(path)


def _interleave(rows: Sequence[Tensor] | Tensor) -> Tensor:
    if isinstance(rows, Tensor):
        return rows
    return rearrange(list(rows), "k b t c h w -> (b k) t c h w")
