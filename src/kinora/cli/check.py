"""What can be found wrong with an argument before anything heavy is imported."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kinora.config import ALIASES, SVD, SVD_XT, SVD_XT_1_1, known_config
from kinora.errors import CheckpointError, RequestError

__all__ = [
    "PRECISIONS",
    "QUANTISATIONS",
    "VARIANTS",
    "check_choice",
    "check_device",
    "check_folder",
    "check_model",
]

PRECISIONS: Final = ("float16", "bfloat16", "float32")
QUANTISATIONS: Final = ("int8", "float8")
VARIANTS: Final = (SVD.name, SVD_XT.name, SVD_XT_1_1.name)
"""The published models, which share their tensors' names and shapes."""


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
