"""Waiting for a database or a storage that is full or away."""

import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from kinora.serve.errors import Busy

__all__ = ["patiently"]

T = TypeVar("T")

log = structlog.get_logger()


def patiently(
    change: Callable[[], T],
    *,
    errors: tuple[type[Exception], ...] = (Busy,),
    meanwhile: Callable[[], object] = lambda: None,
) -> T:
    """Make a change that must be made: try it once a second until it works.

    errors: those that time mends. meanwhile: done between two tries; what it raises ends them.
    """
    while True:
        try:
            return change()
        except errors as error:
            log.warning("waiting", reason=str(error))
            time.sleep(1)
            meanwhile()
