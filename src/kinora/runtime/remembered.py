"""What a clip's making has come to so far, kept so that another process can go on from it."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from kinora.types import Answers, Condition, Latents, Network, PerClip

__all__ = ["Journal", "Remembered"]


@runtime_checkable
class Journal(Protocol):
    """Where the costly results of making one clip are kept."""

    def condition(self) -> Condition | None:
        """What the UNet is told of the photo, where that was kept before."""
        ...

    def keep_condition(self, condition: Condition, /) -> None: ...

    def answers(self) -> Iterable[Tensor]:
        """What the UNet answered, for each condition of each call by itself, in their order."""
        ...

    def keep_answer(self, answer: Tensor, /) -> None: ...


class Remembered:
    """A network that gives the answers of a journal first, and keeps those that it gives then.

    Samplers are replayed rather than stored: whatever one of them remembers between its steps, and
    the noise that it draws, comes about again, at the cost of its arithmetic alone. So a clip that
    is gone on with equals one that was never interrupted.
    """

    def __init__(self, network: Network, journal: Journal) -> None:
        self.network = network
        self.journal = journal
        self.known: Iterator[Tensor] = iter(journal.answers())

    def __call__(self, x: Latents, c_noise: PerClip, condition: Condition, /) -> Answers:
        # By the condition, so that halves of guidance may be asked for together or one by one.
        count = len(condition.vector) // len(x)
        answers = [answer.to(x.device) for answer in islice(self.known, count)]
        if len(answers) < count:
            fresh = self.network(x, c_noise, condition).chunk(count)[len(answers) :]
            for answer in fresh:
                self.journal.keep_answer(answer)
            answers += fresh
        return torch.cat(answers)
