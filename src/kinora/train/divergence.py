"""Whether all values of a training run are finite, checked on the device at every step."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Divergence"]


class Divergence:
    """Records the first step at which a value was NaN or infinite, without waiting for the device.

    The step number is accumulated in a tensor on the device and copied to the host only when
    `first_step` is called, that is before every report and every checkpoint.
    """

    def __init__(self, device: torch.device) -> None:
        self._first = torch.zeros((), dtype=torch.int64, device=device)
        """0 as long as all values were finite."""

    @torch.no_grad()
    def check(self, step: int, scalars: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        """Check the values of one step.

        step: its number, counted from 1.
        scalars: the loss and the norm of all gradients, which is finite only if they are.
        weights: tensors of any shape, on one device.
        """
        # The largest absolute value is NaN or infinite if any value is, and never overflows.
        largest = torch.nn.utils.get_total_norm(weights, math.inf)
        finite = torch.stack([*scalars, largest]).isfinite().all()
        self._first = torch.where((self._first == 0) & ~finite, step, self._first)

    def first_step(self) -> int | None:
        """The first step with a value that was not finite, or None. Waits for the device."""
        return int(self._first) or None
