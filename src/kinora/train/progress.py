"""What a run tells of itself: to whoever watches, and as lines of JSON for later plots."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

__all__ = ["Journal", "Meter", "Progress", "Report"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One report."""

    stage: str
    """What is going on: "resume", "render", "cache", "train", "check"."""
    step: int
    steps: int
    values: Mapping[str, float] = field(default_factory=dict[str, float])
    """Losses and measures by name; a loss over a range of σ is named after it."""
    steps_per_second: float = 0.0
    seconds_left: float = 0.0

    def line(self) -> str:
        """The report in one line for a terminal."""
        parts = [f"{self.stage} {self.step}/{self.steps}"]
        parts += [f"{name} {value:.4g}" for name, value in self.values.items()]
        if self.steps_per_second > 0:
            minutes, seconds = divmod(round(self.seconds_left), 60)
            parts.append(f"{self.steps_per_second:.2f} steps/s, {minutes}:{seconds:02d} left")
        return " · ".join(parts)


Report = Callable[[Progress], None]


class Journal:
    """Hands reports on and keeps them in a file."""

    def __init__(self, path: Path, report: Report) -> None:
        self.path = path
        self.report = report
        self.started = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        """Tell whoever watches, and add a line to the file."""
        entry = {"time": round(time.time(), 2), **asdict(progress)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.report(progress)


class Meter:
    """Means of losses since the last report, kept on the device: no step waits for them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.sums: Tensor | None = None
        self.counts: Tensor | None = None

    def add(self, values: Tensor) -> None:
        """Count one step's values; those that are not a number were not seen."""
        seen = ~values.isnan()
        sums, counts = values.nan_to_num(0.0), seen.float()
        self.sums = sums if self.sums is None else self.sums + sums
        self.counts = counts if self.counts is None else self.counts + counts

    def read(self) -> dict[str, float]:
        """The means by name, and start over."""
        if self.sums is None or self.counts is None:
            return {}
        sums, counts = cast("list[list[float]]", torch.stack([self.sums, self.counts]).tolist())
        self.sums = self.counts = None
        return {n: s / c for n, s, c in zip(self.names, sums, counts, strict=True) if c > 0}
