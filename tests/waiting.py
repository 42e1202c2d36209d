"""How long tests wait for something, in one place: a machine may have other work to do."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["PATIENCE", "until"]

PATIENCE: Final = 300.0
"""Seconds after which what has not happened won't. No law of ours is about how long things take."""

T = TypeVar("T")


def until(look: Callable[[], T | None]) -> T:
    """What is found as soon as there is something."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise TimeoutError("it did not happen")
