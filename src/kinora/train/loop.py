"""The training loop, the same for every network: step, report, save, stop."""

import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from kinora.errors import KinoraError
from kinora.train.loss import Loss
from kinora.train.progress import Journal, Meter, Progress
from kinora.train.rate import learning_rate
from kinora.train.settings import UNetTraining, VAETraining
from kinora.train.state import State

__all__ = ["Stop", "interruptible", "run"]

Objective = Callable[[int], Loss]
"""The loss of step number so and so, whatever came before."""


@dataclass
class Stop:
    """Whether somebody asked to stop (Ctrl-C, a signal), and until when there is time."""

    deadline: float = math.inf
    """In seconds of `time.monotonic`."""
    asked: bool = False

    def now(self) -> bool:
        return self.asked or time.monotonic() >= self.deadline


@contextmanager
def interruptible(minutes: float | None) -> Generator[Stop]:
    """Turn Ctrl-C and SIGTERM into a request to stop after this step; a second one stops at once.

    Afterwards, KeyboardInterrupt is raised if one came. minutes: how long there is time.
    """
    stop = Stop(math.inf if minutes is None else time.monotonic() + 60 * minutes)

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.asked:
        raise KeyboardInterrupt


def run(
    state: State,
    objective: Objective,
    settings: VAETraining | UNetTraining,
    *,
    names: Sequence[str],
    save: Callable[[], None],
    watch: Callable[[], None],
    journal: Journal,
    stop: Stop,
) -> None:
    """Train until the last step or until told to stop; saved then, and every so often.

    names: of the loss's parts. watch: called after each step, for samples and the like.
    """
    meter = Meter(["loss", *names])
    since, first = time.monotonic(), state.step
    for step in range(state.step, settings.steps):
        rate = learning_rate(
            step,
            peak=settings.learning_rate,
            warm_up=settings.warm_up,
            steps=settings.steps,
            floor=settings.floor,
        )
        loss = objective(step)
        descend(state, loss, rate, settings.clip_norm)
        meter.add(torch.cat([loss.total.detach()[None], loss.parts]))
        last = state.step == settings.steps or stop.now()
        if last or state.step % settings.report_every == 0:
            pace = (state.step - first) / (time.monotonic() - since)
            journal(_progress(meter, state.step, settings.steps, rate, pace, stop))
            since, first = time.monotonic(), state.step
        if last or state.step % settings.save_every == 0:
            save()
        watch()
        if last:
            break


def descend(state: State, loss: Loss, rate: float, clip_norm: float) -> None:
    """One step of the optimiser and of the average."""
    loss.total.backward()
    parameters = [p for group in state.groups() for p in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    for group in state.groups():
        group["lr"] = rate
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    state.average.update(state.network, state.step)
    state.step += 1


def _progress(
    meter: Meter, step: int, steps: int, rate: float, pace: float, stop: Stop
) -> Progress:
    values = meter.read()
    if "loss" not in values or not all(map(math.isfinite, values.values())):
        raise KinoraError(
            f"the loss is no longer a number at step {step}: the last checkpoint is good; "
            "train with a lower learning rate"
        )
    left = min((steps - step) / pace, max(stop.deadline - time.monotonic(), 0.0))
    return Progress(
        stage="train",
        step=step,
        steps=steps,
        values={**values, "rate": rate},
        steps_per_second=pace,
        seconds_left=left,
    )
