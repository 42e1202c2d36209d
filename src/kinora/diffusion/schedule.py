"""At which noise levels a sampler stops.

All schedules are functions of the number of steps and of the model's range; they fall from its
highest level and end in 0. Their names are those that a request uses.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Final

from kinora.config import CONSISTENCY_LEVELS, CONSISTENCY_STEPS, MAX_CONSISTENCY_STEPS
from kinora.errors import RequestError

__all__ = [
    "SCHEDULES",
    "Schedule",
    "align_your_steps",
    "consistency_levels",
    "exponential",
    "karras",
]

Schedule = Callable[[int, float, float, float], list[float]]
"""(steps, sigma_min, sigma_max, rho) → steps + 1 falling levels, the last one 0."""

ALIGNED: Final = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)
"""Levels optimised for Stable Video Diffusion in 10 steps. (Sabour et al. 2024)"""


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """Noise levels evenly spaced in σ^(1/ρ), falling from `sigma_max`, and a final 0.

    steps: how many levels, that is, how many steps a sampler will take; at least 1.
    sigma_min: the last level before 0; the only level of one step is `sigma_max`.

    Raises RequestError unless 0 < sigma_min ≤ sigma_max.  (Karras et al. 2022, equation 5)
    """
    _check(steps, sigma_min, sigma_max)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    span = max(steps - 1, 1)
    return [(high + i / span * (low - high)) ** rho for i in range(steps)] + [0.0]


def exponential(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """Noise levels evenly spaced in ln σ, and a final 0: `karras` for ρ → ∞, whatever ρ is.

    Raises RequestError unless 0 < sigma_min ≤ sigma_max.
    """
    _check(steps, sigma_min, sigma_max)
    ratio = (sigma_min / sigma_max) ** (1 / max(steps - 1, 1))
    return [sigma_max * ratio**i for i in range(steps)] + [0.0]


def align_your_steps(
    steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> list[float]:
    """The ten levels optimised for SVD, interpolated in ln σ to any number, and a final 0.

    For a model with another range than SVD's they are stretched to it in ln σ; then they are no
    optimum, but have its shape. ρ does not matter.
    Raises RequestError unless 0 < sigma_min ≤ sigma_max.  (Sabour et al. 2024, "Align Your Steps")
    """
    _check(steps, sigma_min, sigma_max)
    spread = math.log(sigma_max / sigma_min) / math.log(ALIGNED[0] / ALIGNED[-1])
    known = [math.log(sigma_max) - spread * math.log(ALIGNED[0] / level) for level in ALIGNED]
    return [math.exp(_between(known, i / steps)) for i in range(steps)] + [0.0]


def consistency_levels(
    steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> list[float]:
    """Every (40 // n)-th of the 40 Karras levels that a consistency model was distilled at, then 0.

    steps: n, 1–20. As its authors' code does, n that do not divide 40 leave out the lowest levels.
    Raises RequestError for more than 20 steps, or unless 0 < sigma_min ≤ sigma_max.
    (AnimateLCM: Wang et al. 2024)
    """
    _check(steps, sigma_min, sigma_max)
    if steps > MAX_CONSISTENCY_STEPS:
        raise RequestError(
            f"steps {steps}: a consistency model takes 1 to {MAX_CONSISTENCY_STEPS} steps, "
            f"usually {CONSISTENCY_STEPS}"
        )
    known = karras(CONSISTENCY_LEVELS, sigma_min, sigma_max, rho)
    return [known[i * (CONSISTENCY_LEVELS // steps)] for i in range(steps)] + [0.0]


def _between(values: list[float], share: float) -> float:
    """Where one is after a share of the way through evenly spaced values."""
    place = share * (len(values) - 1)
    index = min(int(place), len(values) - 2)
    before, after = list(pairwise(values))[index]
    return before + (place - index) * (after - before)


def _check(steps: int, sigma_min: float, sigma_max: float) -> None:
    if steps < 1:
        raise RequestError(f"steps {steps}: a sampler takes at least 1")
    if not 0 < sigma_min <= sigma_max < math.inf:
        raise RequestError(
            f"noise levels from {sigma_max} down to {sigma_min}: both must be finite and above 0, "
            "the larger one first"
        )


SCHEDULES: Final[dict[str, Schedule]] = {
    "karras": karras,
    "exponential": exponential,
    "ays": align_your_steps,
    "consistency": consistency_levels,
}
