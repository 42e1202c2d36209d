"""Checkpoints of a training run: one safetensors file, replaced in one stroke."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from kinora.errors import CheckpointError
from kinora.train.progress import Journal, Progress
from kinora.train.settings import UNetTraining, VAETraining
from kinora.train.state import State
from kinora.train.tensors import read_tensors, write_tensors

__all__ = ["read_average", "resume", "save"]

Settings = VAETraining | UNetTraining


def save(path: Path, state: State, settings: Settings) -> None:
    """Write weights, average, optimiser, step and settings; an old file lasts until then."""
    metadata = {"step": str(state.step), "settings": json.dumps(asdict(settings))}
    write_tensors(path, state.tensors(), metadata)


def resume(path: Path, state: State, settings: Settings, journal: Journal) -> None:
    """Load a checkpoint into `state` if there is one, and tell the journal.

    Raises CheckpointError when the file is damaged or another network's, or when it was made with
    other settings.
    """
    if not path.exists():
        return
    tensors, metadata = read_tensors(path)
    if "step" not in metadata or "settings" not in metadata:
        raise CheckpointError(f"{path} is not a training checkpoint of Kinora")
    _same(path, json.loads(metadata["settings"]), settings)
    state.load(tensors, int(metadata["step"]))
    journal(Progress(stage="resume", step=state.step, steps=settings.steps))


def read_average(path: Path) -> dict[str, Tensor]:
    """The averaged weights that a checkpoint holds, by the network's own names."""
    return read_tensors(path, "average.")[0]


def _same(path: Path, stored: dict[str, Any], settings: Settings) -> None:
    """Refuse other settings. What an older version did not know counts as the default."""
    free = {field.name for field in fields(settings) if field.metadata.get("free")}
    before = _flat(asdict(type(settings)())) | _flat(stored)
    for name, now in _flat(asdict(settings)).items():
        if name.split(".")[0] not in free and before.get(name) != now:
            raise CheckpointError(
                f"{path} was made with {name} {before.get(name)}, but this run has {now}: go on "
                "with the same setting, or start in another folder"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Values by dotted name, as JSON."""
    out: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out |= _flat(cast(dict[str, Any], value), f"{prefix}{name}.")
        else:
            out[prefix + name] = json.dumps(value)
    return out
