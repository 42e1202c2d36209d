"""Training data made once and kept: numbered safetensors files, and what they were made with."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kinora.errors import CheckpointError
from kinora.train.tensors import read_tensors, write_tensors

__all__ = ["SHARD", "missing_shards", "read_shards", "write_shards"]

SHARD = 64
"""Clips in a file."""

Tensors = Mapping[str, Tensor]


def missing_shards(folder: Path, clips: int, recipe: Mapping[str, Any]) -> list[int]:
    """Numbers of the files still to be made, so that `clips` are there.

    recipe: what the data depends on. Raises CheckpointError when the folder holds data of another.
    """
    told = folder / "recipe.json"
    text = json.dumps(recipe, indent=1, sort_keys=True)
    if told.exists() and told.read_text(encoding="utf-8") != text:
        raise CheckpointError(
            f"{folder} holds data made with other settings or another autoencoder: remove the "
            "folder to make it anew, or start in another one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    told.write_text(text, encoding="utf-8")
    return [k for k in range(-(-clips // SHARD)) if not _path(folder, k).exists()]


def write_shards(
    folder: Path, made: Iterable[tuple[int, Tensors]], stop: Callable[[], bool]
) -> Iterator[int]:
    """Write each file as it is made, and tell its number; ends early when told to stop."""
    for k, tensors in made:
        write_tensors(_path(folder, k), tensors, {})
        yield k
        if stop():
            return


def read_shards(folder: Path, clips: int) -> dict[str, Tensor]:
    """The first `clips` of all files, in memory. Raises CheckpointError when one is damaged."""
    out: dict[str, Tensor] = {}
    for k in range(-(-clips // SHARD)):
        shard, _ = read_tensors(_path(folder, k))
        start, count = k * SHARD, min(SHARD, clips - k * SHARD)
        for name, tensor in shard.items():
            if k == 0:
                out[name] = torch.empty((clips, *tensor.shape[1:]), dtype=tensor.dtype)
            out[name][start : start + count] = tensor[:count]
    return out


def _path(folder: Path, k: int) -> Path:
    return folder / f"{k:05}.safetensors"
