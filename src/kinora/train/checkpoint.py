"""Checkpoints of a training run: one safetensors file, replaced in one stroke."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kinora.errors import CheckpointError, OutputError
from kinora.train.settings import UNetTraining, VAETraining
from kinora.train.state import State

__all__ = ["read_average", "restore", "save", "write_tensors"]

Settings = VAETraining | UNetTraining
MISSING = object()


def save(path: Path, state: State, settings: Settings) -> None:
    """Write weights, average, optimiser, step and settings; an old file lasts until then."""
    metadata = {"step": str(state.step), "settings": json.dumps(asdict(settings))}
    write_tensors(path, state.tensors(), metadata)


def restore(path: Path, state: State, settings: Settings) -> bool:
    """Load a checkpoint into `state` if there is one, and say so.

    Raises CheckpointError when the file is damaged or another network's, or when it was made with
    other settings.
    """
    if not path.exists():
        return False
    tensors, metadata = _read(path, "")
    _same(path, json.loads(metadata["settings"]), settings)
    state.load(tensors, int(metadata["step"]))
    return True


def read_average(path: Path) -> dict[str, Tensor]:
    """The averaged weights that a checkpoint holds, by the network's own names."""
    tensors, _ = _read(path, "average.")
    return {name.removeprefix("average."): tensor for name, tensor in tensors.items()}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name, then give it its own."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(ready, partial, metadata)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"can't write {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise OutputError(f"can't write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path, prefix: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(os.fspath(path), "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
            metadata: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} can't be read ({error}); if it is damaged, remove it to start anew"
        ) from error
    if "step" not in metadata or "settings" not in metadata:
        raise CheckpointError(f"{path} is not a training checkpoint of Kinora")
    return tensors, metadata


def _same(path: Path, stored: dict[str, Any], settings: Settings) -> None:
    now = json.loads(json.dumps(asdict(settings)))
    for field in fields(settings):
        before = stored.get(field.name, MISSING)
        if field.metadata.get("free") or before == now[field.name]:
            continue
        was, is_now = _difference(before, now[field.name])
        raise CheckpointError(
            f"{path} was made with {field.name} {was}, but this run has {is_now}: go on with the "
            "same setting, or start in another folder"
        )


def _difference(before: object, now: object) -> tuple[str, str]:
    """The two values; of two mappings only the entries that differ."""
    if before is MISSING:
        return "unknown", repr(now)
    if isinstance(before, dict) and isinstance(now, dict):
        old, new = cast(dict[str, Any], before), cast(dict[str, Any], now)
        names = [n for n in sorted(old | new) if old.get(n, MISSING) != new.get(n, MISSING)]
        return repr({n: old.get(n) for n in names}), repr({n: new.get(n) for n in names})
    return repr(before), repr(now)
