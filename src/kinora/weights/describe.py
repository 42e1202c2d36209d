"""What a checkpoint is, told without loading it."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from kinora.config import ModelConfig
from kinora.weights.checkpoint import Checkpoint, Format
from kinora.weights.fingerprint import fingerprint, full_digest
from kinora.weights.names import NETWORKS, living_shapes
from kinora.weights.open import open_checkpoint

__all__ = ["Description", "describe", "verify"]


class Description(NamedTuple):
    """A checkpoint, seen from outside."""

    path: Path
    format: Format
    config: ModelConfig
    parameters: dict[str, int]
    """Of each network, by name; the tensors that are there."""
    unused: int
    """Numbers in tensors that inference doesn't need."""
    dtypes: dict[str, int]
    """Number format → how many of all numbers are stored in it."""
    bytes: int
    """Of all files with tensors."""
    problems: tuple[str, ...]
    """What keeps it from being loaded; empty when it is complete."""
    fingerprint: str | None
    """None where tensors are missing."""
    notes: tuple[str, ...]


def describe(path: str | Path, *, variant: str | None = None, half: bool = False) -> Description:
    """Tell what a checkpoint is from its header, its config files and a sample of its tensors.

    half: look at the fp16 files where a diffusers folder has both.
    Raises CheckpointError when it is no checkpoint at all.
    """
    checkpoint = open_checkpoint(path, variant=variant, half=half)
    problems = tuple(checkpoint.problems())
    sizes = _sizes(checkpoint)
    dtypes: Counter[str] = Counter()
    for place in checkpoint.stored.values():
        entry = place.file.entries[place.key]
        dtypes[str(entry.dtype).removeprefix("torch.")] += torch.Size(entry.shape).numel()
    files = {place.file.path: place.file.size for place in checkpoint.stored.values()}
    return Description(
        path=checkpoint.path,
        format=checkpoint.format,
        config=checkpoint.config,
        parameters={network: sizes[network] for network in NETWORKS},
        unused=dtypes.total() - sum(sizes.values()),
        dtypes=dict(dtypes),
        bytes=sum(files.values()),
        problems=problems,
        fingerprint=None if problems else fingerprint(checkpoint),
        notes=checkpoint.notes,
    )


def verify(path: str | Path, *, variant: str | None = None, half: bool = False) -> str:
    """Read every value that the networks need; SHA-256 over all of them (hexadecimal).

    Like the fingerprint, it doesn't depend on the format, only on the number format.
    Raises CheckpointError when the checkpoint is incomplete or holds NaN or infinity.
    """
    checkpoint = open_checkpoint(path, variant=variant, half=half)
    checkpoint.check()
    return full_digest(checkpoint)


def _sizes(checkpoint: Checkpoint) -> Counter[str]:
    sizes: Counter[str] = Counter()
    for name, shape in living_shapes(checkpoint.config).items():
        if name in checkpoint.names:
            sizes[name.partition(".")[0]] += torch.Size(shape).numel()
    return sizes
