"""`kinora models`: what there is to choose from."""

import json as jsonlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kinora.cli import options
from kinora.cli.say import result

if TYPE_CHECKING:
    from kinora.weights import KnownModel

__all__ = ["models"]


def models(json: options.Json = False) -> None:
    """List the models that are bundled, downloaded or known, with the licence of each.

    Any other model is named by its hub id (user/name), its folder or its file.
    """
    from kinora.weights import known_models

    known = known_models()
    if json:
        for model in known:
            result(jsonlib.dumps(_facts(model)))
        return
    header = ("MODEL", "STATE", "FRAMES", "SIZE", "LICENCE", "FROM")
    for row in _aligned([header, *map(_row, known)]):
        result(row)


def state(model: "KnownModel") -> str:
    """Whether it can be used without a download."""
    if model.source == "bundled":
        return "bundled" if model.present else "missing"
    return "cached" if model.present else "to download"


def _facts(model: "KnownModel") -> dict[str, object]:
    config = model.config
    return {
        "model": model.alias,
        "state": state(model),
        "frames": config.frames,
        "size": [config.width, config.height],
        "licence": config.licence,
        "source": model.source,
    }


def _row(model: "KnownModel") -> tuple[str, ...]:
    config = model.config
    size = f"{config.width}x{config.height}"
    return (model.alias, state(model), str(config.frames), size, config.licence, model.source)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
