"""Two ways to do the same, each in a process of its own, timed in turns.

Machines are noisy and shared: what counts is the ratio of neighbouring runs, A B A B, and its
median. While one side runs the other one sleeps.
"""

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.resident import resident

__all__ = ["Row", "Sample", "duel", "report"]

Make = Callable[[], Callable[[], Tensor]]
"""Loads what is needed and returns what is timed; runs in its own process, so it is picklable."""


class Sample(NamedTuple):
    """One run of one side."""

    seconds: float
    peak: int
    """Bytes resident at most during the run."""
    above: int
    """Bytes of that above what was resident before."""
    output: np.ndarray


class Row(NamedTuple):
    """A line of a table: ours beside theirs. Low and high are the quartiles of the ratio."""

    name: str
    ours: float
    theirs: float
    unit: str
    ratio: float
    low: float
    high: float
    max_error: float


def duel(
    name: str, ours: Make, theirs: Make, *, pairs: int = 5, threads: int = 2, anew: bool = False
) -> list[Row]:
    """Seconds and memory of both, once the outputs agree; one run of each goes before.

    pairs: of runs; with 0 the one that goes before has to do.
    anew: have a process for each run, which finds no memory that an earlier one has left.
    """
    with ExitStack() as stack:
        if anew:
            us, them = (partial(once, make, threads) for make in (ours, theirs))
        else:
            us, them = (stack.enter_context(Side(make, threads)).run for make in (ours, theirs))
        first = us(), them()
        error = float(np.abs(first[0].output - first[1].output).max())
        samples = [(us(), them()) for _ in range(pairs)] or [first]
    gib = 2**30
    return [
        row(f"{name}, time", [(a.seconds, b.seconds) for a, b in samples], "s", error),
        row(f"{name}, peak", [(a.peak / gib, b.peak / gib) for a, b in samples], "GiB", error),
        row(
            f"{name}, peak above weights",
            [(a.above / gib, b.above / gib) for a, b in samples],
            "GiB",
            error,
        ),
    ]


def row(name: str, pairs: Sequence[tuple[float, float]], unit: str, error: float) -> Row:
    ratios = [ours / theirs for ours, theirs in pairs]
    low, middle, high = map(float, np.percentile(ratios, (25, 50, 75)))
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(name, ours, theirs, unit, middle, low, high, error)


def once(make: Make, threads: int) -> Sample:
    with Side(make, threads) as side:
        return side.run()


class Side:
    """A process that does one thing when asked."""

    def __init__(self, make: Make, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far, make, threads), daemon=True)
        self.process.start()
        far.close()

    def __enter__(self) -> "Side":
        self.line.recv()  # it is loaded
        return self

    def run(self) -> Sample:
        self.line.send("run")
        return self.line.recv()

    def __exit__(self, *_: object) -> None:
        self.line.close()
        self.process.join()


def _serve(line: Connection, make: Make, threads: int) -> None:
    torch.set_num_threads(threads)
    call = make()
    line.send("ready")
    while True:
        try:
            line.recv()
        except EOFError:
            return
        before = _start_over()
        start = time.perf_counter()
        output = call()
        seconds = time.perf_counter() - start
        peak = resident("VmHWM")
        line.send(Sample(seconds, peak, peak - before, output.float().numpy()))


def _start_over() -> int:
    """Bytes resident now, from which the highest count begins anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def report(rows: Sequence[Row], path: Path | None) -> None:
    """A table, and a JSON list of rows."""
    print("| what | ours | theirs | | ratio | quartiles | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        print(
            f"| {r.name} | {r.ours:.3g} | {r.theirs:.3g} | {r.unit} | {r.ratio:.3f} "
            f"| {r.low:.3f}-{r.high:.3f} | {r.max_error:.1e} |"
        )
    if path is not None:
        path.write_text(json.dumps([r._asdict() for r in rows], indent=1))
