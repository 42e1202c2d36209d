"""`kinora models`: what there is to choose from."""

import json as jsonlib
from collections.abc import Sequence

from kinora.cli import options
from kinora.cli.say import result

__all__ = ["models"]


def models(json: options.Json = False) -> None:
    """List the models that are bundled, downloaded or known, with the licence of each.

    Any other model is named by its hub id (user/name), its folder or its file.
    """
    from kinora.weights import known_models

    rows = [("MODEL", "STATE", "FRAMES", "SIZE", "LICENCE", "FROM")]
    for model in known_models():
        config = model.config
        state = state_of(bundled=model.source == "bundled", present=model.present)
        facts = {
            "model": model.alias,
            "state": state,
            "frames": config.frames,
            "size": [config.width, config.height],
            "licence": config.licence,
            "source": model.source,
        }
        if json:
            result(jsonlib.dumps(facts))
        size = f"{config.width}x{config.height}"
        rows.append((model.alias, state, str(config.frames), size, config.licence, model.source))
    if not json:
        for line in _aligned(rows):
            result(line)


def state_of(*, bundled: bool, present: bool) -> str:
    """Whether a model can be used without a download."""
    if bundled:
        return "bundled" if present else "missing"
    return "cached" if present else "to download"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
