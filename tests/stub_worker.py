"""A worker process whose clips take as long as it is told, and nothing else.

python -m tests.stub_worker DATA [SECONDS A STEP] [DATABASE URL] [BINDING]
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from kinora.clip import Clip
from kinora.config import TINY
from kinora.errors import KinoraError
from kinora.events import Decoded, Done, Encoded, Event, Sampled
from kinora.media import load_photo
from kinora.request import Request
from kinora.runtime import Journal
from kinora.serve.settings import Settings
from kinora.types import Condition

FATAL_SEED = 666
"""Kills the worker that makes it."""
BROKEN_SEED = 667
"""Ends in an error."""


class Stub:
    """Clips of one colour, which their seed tells; each answer is kept in the journal."""

    def __init__(self, step_seconds: float, binding: str = "stub float32") -> None:
        self.step_seconds = step_seconds
        self.binding = binding

    def stream(self, requests: Request, journal: Journal | None = None) -> Iterator[Event]:
        plan = requests.resolved(TINY, load_photo(requests.image).size)
        if journal is not None and journal.condition() is None:
            journal.keep_condition(Condition(*(torch.zeros(1, 1, 1) for _ in range(3))))
        yield Encoded((plan,))
        known = [] if journal is None else list(journal.answers())
        for step in range(1, plan.steps + 1):
            if step > len(known):
                if plan.seed == FATAL_SEED:
                    os.kill(os.getpid(), signal.SIGKILL)
                if plan.seed == BROKEN_SEED:
                    raise KinoraError("it broke, as it was asked to")
                time.sleep(self.step_seconds)
                if journal is not None:
                    journal.keep_answer(torch.full((1,), float(step)))
            yield Sampled(step, plan.steps, torch.zeros(1, 1, 4, 4, 4))
        yield Decoded(plan.frames, plan.frames)
        colour = np.full((plan.frames, 32, 64, 3), plan.seed % 251, np.uint8)
        recipe = {"replayed": len(known), "request": plan.to_dict()}
        yield Done((Clip(colour, plan.fps, recipe),))

    def preview(self, denoised: torch.Tensor, frame: int = -1) -> np.ndarray:
        return np.zeros((1, 32, 64, 3), np.uint8)


def main(
    data: str,
    step_seconds: str = "0.01",
    database: str | None = None,
    binding: str = "stub float32",
) -> None:
    from kinora.serve.worker import run_worker

    settings = Settings(data=Path(data), model="tiny", database=database or None)
    run_worker(settings, lambda: Stub(float(step_seconds), binding), attached=True)


def forked(stdin: Connection, log: Path, *arguments: str) -> None:
    """The same, forked from a process that has imported all of it: some tenths of a second."""
    with log.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    os.dup2(stdin.fileno(), 0)
    with open(0, closefd=False) as sys.stdin:
        main(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
