"""The learning rate, a function of the step alone."""

import math

__all__ = ["learning_rate"]


def learning_rate(step: int, *, peak: float, warm_up: int, steps: int, floor: float) -> float:
    """Rises in a line over `warm_up` steps, then falls along a cosine to `floor` × peak.

    step: counted from 0. steps: of the whole run.  (Loshchilov & Hutter 2017, without restarts)
    """
    if step < warm_up:
        return peak * (step + 1) / (warm_up + 1)
    done = min((step - warm_up) / max(steps - warm_up, 1), 1.0)
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)
