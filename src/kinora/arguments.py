"""Arguments of public functions: taken where their meaning is obvious, else one clear error.

No torch here, so that requests are checked without it.
"""

import os
from collections.abc import Sequence
from numbers import Real
from operator import index
from pathlib import Path
from typing import Any, TypeVar, cast

from kinora.errors import RequestError

__all__ = [
    "as_choice",
    "as_integer",
    "as_number",
    "as_pair",
    "as_path",
    "as_size",
    "expect",
    "shown",
]

T = TypeVar("T")

UNORDERED = (str, bytes, dict, set, frozenset)
"""Not a pair, even of two."""


def as_integer(name: str, value: object, low: int, high: int | None = None, unit: str = "") -> int:
    """A whole number of any kind, numpy's and torch's too, but no truth value.

    Raises RequestError when it is none, or lies outside `low` to `high`.
    """
    try:
        number = None if _is_truth(value) else index(cast(int, value))
    except (TypeError, ValueError, RuntimeError):  # what torch raises for a tensor of many
        number = None
    if number is None or number < low or (high is not None and number > high):
        bounds = f"from {low}" if high is None else f"from {low} to {high}"
        raise RequestError(
            f"{name} {shown(value)}: must be a whole number {bounds}{unit and f' {unit}'}"
        )
    return number


def as_number(name: str, value: object, low: int | float, high: int | float) -> int | float:
    """A number of any kind; Python's own stay as they are.

    Raises RequestError when it is none, or lies outside `low` to `high`.
    """
    number = value if isinstance(value, int | float) else _real(value)
    if number is None or _is_truth(value) or not low <= number <= high:
        raise RequestError(f"{name} {shown(value)}: must be a number from {low} to {high}")
    return number


def as_pair(name: str, value: object, example: str) -> tuple[Any, Any]:
    """Two of something, in their order. Raises RequestError for any other number of them."""
    try:
        items = [] if isinstance(value, UNORDERED) else list(cast("Sequence[Any]", value))
    except Exception:  # iterating over what is no sequence raises whatever its class likes
        items = []
    if len(items) != 2:
        raise RequestError(f"{name} {shown(cast(object, value))}: must be {example}")
    return items[0], items[1]


def as_size(name: str, value: object, high: int | None = None) -> tuple[int, int]:
    """Width and height in pixels, from 1 to `high`. Raises RequestError for anything else."""
    width, height = as_pair(name, value, "width and height such as (1024, 576)")
    unit = f"pixels a side, in {shown(width)}x{shown(height)}"
    return as_integer(name, width, 1, high, unit), as_integer(name, height, 1, high, unit)


def as_choice(name: str, value: object, choices: Sequence[str]) -> str:
    """One of the names. Raises RequestError for anything else."""
    if not isinstance(value, str) or value not in choices:
        raise RequestError(f"{name} {shown(value)}: must be one of {', '.join(choices)}")
    return value


def as_path(name: str, value: object) -> Path:
    """A path, or the text of one. Raises RequestError for anything else."""
    pathlike = isinstance(value, os.PathLike)
    text = os.fspath(cast("os.PathLike[Any]", value)) if pathlike else value
    if isinstance(text, str):
        return Path(text)
    raise RequestError(f"{name} {shown(value)}: must be a path, as text or as a pathlib.Path")


def expect(name: str, value: object, kind: type[T], meaning: str) -> T:
    """The value, which must be of a class. Raises RequestError that says what it should be."""
    if not isinstance(value, kind):
        raise RequestError(f"{name} {shown(value)}: must be {meaning}")
    return value


def shown(value: object) -> str:
    """A value for a message: short ones as they are, others by their class and shape."""
    if isinstance(value, str | bytes | int | float | list | tuple | dict | None):
        text = repr(cast(object, value))
        return text if len(text) <= 60 else f"{text[:57]}…"
    shape = getattr(value, "shape", None)
    kind = value.__name__ if isinstance(value, type) else type(value).__name__
    return f"({kind})" if shape is None else f"({kind} {list(shape)})"


def _real(value: object) -> float | None:
    return float(value) if isinstance(value, Real) else None


def _is_truth(value: object) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
