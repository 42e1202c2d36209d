"""How much is computed at a time, by kind of device: enough to fill it, little beside a clip."""

from collections.abc import Generator
from contextlib import contextmanager
from threading import RLock
from typing import Final, NamedTuple

import torch

__all__ = [
    "SIZES",
    "TILE_WORK",
    "Sizes",
    "counting",
    "counting_for",
    "kind_of",
    "sizes_of",
    "standing_for",
    "tile_within",
]


class Sizes(NamedTuple):
    """Bytes that are computed at a time."""

    piece: int
    """Of the inner values of a layer of the UNet."""
    tiles: tuple[int, ...]
    """Of some rows of all frames in the decoder, the largest first: the first that fits is used."""


SIZES: Final = {
    # Twice as much is beyond what a CPU's C library keeps for the next piece, which then waits for
    # fresh pages (12 % of a step at 128×192×14).
    "cpu": Sizes(16 << 20, (32 << 20,)),
    # A GPU wants products large enough to fill it, and waits for every call that starts one.
    "cuda": Sizes(256 << 20, (512 << 20, 256 << 20, 128 << 20, 32 << 20)),
    "mps": Sizes(64 << 20, (128 << 20, 32 << 20)),
}

COUNTING = RLock()
STANDS_FOR: list[str] = []
"""What the meta device stands for."""
FIRST_ONLY: list[bool] = []
"""Something, while memory is counted."""


def kind_of(device: torch.device) -> str:
    """The kind of a device; of the meta device, that of the one that it stands for."""
    if device.type == "meta" and STANDS_FOR:
        return STANDS_FOR[-1]
    return device.type if device.type in SIZES else "cpu"


def sizes_of(device: torch.device) -> Sizes:
    return SIZES[kind_of(device)]


def tile_within(device: torch.device, spare: int) -> int:
    """The largest of a device's tiles that, with what is made of one, stays within spare bytes; the
    smallest where none does."""
    tiles = sizes_of(device).tiles
    return next((tile for tile in tiles if TILE_WORK * tile <= spare), tiles[-1])


TILE_WORK: Final = 8
"""Times its bytes that a tile takes: what is gathered, normed in fp32, and convolved."""


@contextmanager
def standing_for(kind: str) -> Generator[None, None, None]:
    """Within it, as much is computed at a time on the meta device as on another."""
    with COUNTING:
        STANDS_FOR.append(kind)
        try:
            yield
        finally:
            STANDS_FOR.pop()


@contextmanager
def counting_for(kind: str) -> Generator[None, None, None]:
    """The same, and the first pieces stand for all: what exists at most at a time does not change
    by the others."""
    with standing_for(kind):
        FIRST_ONLY.append(True)
        try:
            yield
        finally:
            FIRST_ONLY.pop()


def counting(device: torch.device) -> bool:
    """Whether first pieces stand for all."""
    return device.type == "meta" and bool(FIRST_ONLY)
