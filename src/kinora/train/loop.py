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
from torch import Tensor

from kinora.errors import CheckpointError, NotFiniteError
from kinora.train.divergence import Divergence
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
    Raises NotFiniteError when a loss, a gradient or a weight is NaN or infinite at any step: at the
    next report or before the next checkpoint, which is then not written.
    """
    meter = Meter(["loss", *names])
    divergence = Divergence(next(state.network.parameters()).device)
    saved = state.step or None
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
        norm = descend(state, loss, rate, settings.clip_norm)
        # The average follows the weights: it is finite only if they are.
        averages = list(state.average.tensors.values())
        divergence.check(state.step, [loss.total.detach(), norm], averages)
        meter.add(torch.cat([loss.total.detach()[None], loss.parts]))
        last = state.step == settings.steps or stop.now()
        reporting = last or state.step % settings.report_every == 0
        saving = last or state.step % settings.save_every == 0
        if reporting or saving:
            _refuse_divergence(divergence, saved)
        if reporting:
            pace = (state.step - first) / (time.monotonic() - since)
            journal(_progress(meter, state.step, settings.steps, rate, pace, stop))
            since, first = time.monotonic(), state.step
        if saving:
            _save(save, state.step, saved)
            saved = state.step
        watch()
        if last:
            break


def descend(state: State, loss: Loss, rate: float, clip_norm: float) -> Tensor:
    """One step of the optimiser and of the average; returns the norm of all gradients together."""
    loss.total.backward()
    parameters = [p for group in state.groups() for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    for group in state.groups():
        group["lr"] = rate
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    state.average.update(state.network, state.step)
    state.step += 1
    return norm


def _refuse_divergence(divergence: Divergence, saved: int | None) -> None:
    step = divergence.first_step()
    if step is not None:
        raise NotFiniteError(
            f"training diverged: the loss, a gradient or a weight is NaN or infinite at step "
            f"{step}. {_advice(saved)}"
        )


def _save(save: Callable[[], None], step: int, saved: int | None) -> None:
    """Save, and complete the error that a value which is not finite raises there."""
    try:
        save()
    except (CheckpointError, NotFiniteError) as error:  # CheckpointError: beyond what float16 holds
        raise NotFiniteError(
            f"training diverged: at step {step}, {error}. {_advice(saved)}"
        ) from error


def _advice(saved: int | None) -> str:
    last = "There is no checkpoint of this run"
    if saved is not None:
        last = f"The last good checkpoint, which stays, is that of step {saved}"
    return f"{last}. Train in another folder with a lower learning rate"


def _progress(
    meter: Meter, step: int, steps: int, rate: float, pace: float, stop: Stop
) -> Progress:
    values = meter.read()
    left = min((steps - step) / pace, max(stop.deadline - time.monotonic(), 0.0))
    return Progress(
        stage="train",
        step=step,
        steps=steps,
        values={**values, "rate": rate},
        steps_per_second=pace,
        seconds_left=left,
    )
