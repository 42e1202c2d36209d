"""A checkpoint of any format, seen through our names: what it holds, lacks, and has too much."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kinora.config import ModelConfig
from kinora.errors import CheckpointError
from kinora.weights.keymap import KeyMap
from kinora.weights.names import NETWORKS, living_shapes, shapes
from kinora.weights.read import TensorFile, bad_values

__all__ = ["Checkpoint", "Format", "Stored"]

Format = Literal["kinora", "sgm", "diffusers"]


class Stored(NamedTuple):
    """Where a foreign tensor lies."""

    file: TensorFile
    key: str


class Checkpoint:
    """The tensors of one model, in one or several files, not read yet.

    path: the file or folder, for messages.
    table: between the keys of `stored` and our names.
    notes: what the user should hear about how it was understood.
    """

    def __init__(
        self,
        path: Path,
        format: Format,
        config: ModelConfig,
        table: KeyMap,
        stored: Mapping[str, Stored],
        notes: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.format: Format = format
        self.config = config
        self.table = table
        self.stored = stored
        self.notes = tuple(notes)
        self.names = frozenset(
            name for key in stored if key in table.rules for name in table.rules[key].ours
        )
        """Our names of all that can be read."""

    def dtype(self, name: str) -> torch.dtype:
        """The number format that one of our tensors is stored in."""
        place = self.stored[self.table.source(name).theirs]
        return place.file.entries[place.key].dtype

    def tensor(self, name: str) -> Tensor:
        """One of our tensors, as a view of the mapped file where no reordering is needed."""
        rule = self.table.source(name)
        place = self.stored[rule.theirs]
        return rule.op.to_ours(place.file.tensor(place.key))[rule.ours.index(name)]

    def sound_tensor(self, name: str) -> Tensor:
        """The same; raises CheckpointError when it holds NaN or infinity."""
        tensor = self.tensor(name)
        bad = bad_values(tensor)
        if bad is not None:
            key = self.table.source(name).theirs
            raise CheckpointError(
                f"{self.path} is damaged: tensor {key} holds {bad}; download or make it again"
            )
        return tensor

    def forget(self, name: str) -> None:
        """Let go of the memory behind a tensor that was read and copied."""
        place = self.stored[self.table.source(name).theirs]
        place.file.forget(place.key)

    def missing(self) -> list[str]:
        """Our names of what the networks need and the files don't hold."""
        return [name for name in living_shapes(self.config) if name not in self.names]

    def leftover(self) -> list[str]:
        """Foreign keys that no rule knows."""
        return [key for key in self.stored if key not in self.table.rules]

    def misshapen(self) -> list[str]:
        """What is wrong with the shapes, one sentence a tensor."""
        ours = shapes(self.config)
        found: list[str] = []
        for key, (file, name) in self.stored.items():
            if key in self.table.rules:
                shape, expected = file.entries[name].shape, self.table.theirs_shape(key, ours)
                if shape != expected:
                    found.append(f"{key} has the shape {list(shape)} instead of {list(expected)}")
        return found

    def problems(self) -> list[str]:
        """All that keeps it from being loaded, in sentences; empty when it is complete."""
        found: list[str] = []
        if missing := self.missing():
            found.append(f"incomplete: {self._count_missing(missing)}")
        if leftover := self.leftover():
            found.append(
                f"not all understood: {len(leftover)} tensors have no place in {self.config.name}: "
                f"{_first(leftover)}"
            )
        if misshapen := self.misshapen():
            found.append(f"of other widths than {self.config.name}: {_first(misshapen)}")
        return found

    def check(self) -> None:
        """Raise CheckpointError unless every tensor is there, in its shape, and none is left."""
        problems = self.problems()
        if problems:
            raise CheckpointError(f"{self.path} is {problems[0]}")

    def _count_missing(self, missing: list[str]) -> str:
        total = Counter(name.partition(".")[0] for name in living_shapes(self.config))
        lacking = Counter(name.partition(".")[0] for name in missing)
        parts = [
            f"{lacking[network]} of {total[network]} tensors of the {network.replace('_', ' ')}"
            for network in NETWORKS
            if lacking[network]
        ]
        keys = list(dict.fromkeys(self.table.source(name).theirs for name in missing))
        return f"{' and '.join(parts)} are missing: {_first(keys)}"


def _first(items: Sequence[str], count: int = 3) -> str:
    return ", ".join(items[:count]) + (", …" if len(items) > count else "")
