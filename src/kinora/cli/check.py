"""What can be found wrong with an argument before anything heavy is imported."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kinora.config import NANO, SVD, SVD_XT, SVD_XT_1_1, ModelConfig
from kinora.errors import CheckpointError, RequestError

__all__ = [
    "PRECISIONS",
    "QUANTISATIONS",
    "VARIANTS",
    "check_choice",
    "check_device",
    "check_folder",
    "check_model",
    "known_config",
    "parse_count",
    "parse_integer",
    "parse_number",
    "parse_range",
    "parse_size",
]

ALIASES: Final = {config.name: config for config in (NANO, SVD, SVD_XT, SVD_XT_1_1)}


PRECISIONS: Final = ("float16", "bfloat16", "float32")
QUANTISATIONS: Final = ("int8", "float8")
VARIANTS: Final = (SVD.name, SVD_XT.name, SVD_XT_1_1.name)
"""The published models, which share their tensors' names and shapes."""


def parse_integer(name: str, text: str | None) -> int | None:
    """A whole number. Raises RequestError when it is none."""
    if text is None:
        return None
    if not re.fullmatch(r"[+-]?\d{1,40}", text.strip()):
        raise RequestError(f"{name} {text!r}: must be a whole number")
    return int(text)


def parse_count(name: str, text: str, high: int) -> int:
    """A whole number from 1 to `high`. Raises RequestError for any other."""
    value = parse_integer(name, text)
    if value is None or not 1 <= value <= high:
        raise RequestError(f"{name} {text}: must be a whole number from 1 to {high}")
    return value


def parse_number(name: str, text: str | None) -> float | None:
    """A number. Raises RequestError when it is none."""
    try:
        return None if text is None else float(text)
    except ValueError:
        raise RequestError(f"{name} {text!r}: must be a number") from None


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Width and height of "1024x576". Raises RequestError when it is no such thing."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", text.strip())
    if match is None:
        raise RequestError(f"size {text!r}: must be width and height such as 1024x576")
    return int(match[1]), int(match[2])


def parse_range(name: str, text: str | None, example: str) -> tuple[float, float] | None:
    """Two numbers of "1:3", or one twice. Raises RequestError for anything else."""
    if text is None:
        return None
    try:
        numbers = [float(number) for number in text.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise RequestError(f"{name} {text!r}: must be two numbers such as {example}, or one")
    return numbers[0], numbers[-1]


def check_choice(name: str, value: str | None, choices: Sequence[str]) -> None:
    """Refuse what is not among the choices. Raises RequestError."""
    if value is not None and value not in choices:
        raise RequestError(f"{name} {value!r}: must be one of {', '.join(choices)}")


def check_device(name: str | None) -> None:
    """Refuse what is no name of a device; whether it is there is seen later.

    Raises RequestError.
    """
    if name is not None and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise RequestError(f"device {name!r}: must be cpu, cuda, cuda:N or mps")


def check_folder(path: Path) -> None:
    """Refuse a file where a folder is to be. Raises RequestError."""
    if path.exists() and not path.is_dir():
        raise RequestError(f"{path}: is a file; name a folder, which may be a new one")


def check_model(source: str) -> None:
    """Refuse a model that can't be an alias, a hub id, a folder or a file.

    Raises CheckpointError.
    """
    if known_config(source) is None and "/" not in source and not Path(source).exists():
        raise CheckpointError(
            f"{source}: no such file or folder, and no known model. Known are "
            f"{', '.join(ALIASES)}; see `kinora models`"
        )


def known_config(source: str) -> ModelConfig | None:
    """The configuration of an alias."""
    return ALIASES.get(source.lower().replace("_", "-"))
