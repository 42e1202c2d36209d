"""What can be found wrong with an argument before anything heavy is imported."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Final

from kinora.config import NANO, SVD, SVD_XT, SVD_XT_1_1, ModelConfig
from kinora.errors import CheckpointError, RequestError

__all__ = [
    "Precision",
    "Variant",
    "check_device",
    "check_model",
    "known_config",
    "parse_guidance",
    "parse_size",
]

ALIASES: Final = {config.name: config for config in (NANO, SVD, SVD_XT, SVD_XT_1_1)}


class Precision(StrEnum):
    """Names of number formats."""

    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Variant(StrEnum):
    """Names of the published models, which share their tensors' names and shapes."""

    SVD = SVD.name
    SVD_XT = SVD_XT.name
    SVD_XT_1_1 = SVD_XT_1_1.name


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Width and height of "1024x576". Raises RequestError when it is no such thing."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", text.strip())
    if match is None:
        raise RequestError(f"size {text!r}: must be width and height such as 1024x576")
    return int(match[1]), int(match[2])


def parse_guidance(text: str | None) -> tuple[float, float] | None:
    """Two scales of "1:3", or one for all frames. Raises RequestError for anything else."""
    if text is None:
        return None
    try:
        scales = [float(scale) for scale in text.split(":")]
    except ValueError:
        scales = []
    if len(scales) not in (1, 2):
        raise RequestError(f"guidance {text!r}: must be two scales such as 1:3, or one")
    return scales[0], scales[-1]


def check_device(name: str | None) -> None:
    """Refuse what is no name of a device; whether it is there is seen later.

    Raises RequestError.
    """
    if name is not None and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise RequestError(f"device {name!r}: must be cpu, cuda, cuda:N or mps")


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
