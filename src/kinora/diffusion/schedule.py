"""At which noise levels a sampler stops."""

import math

from kinora.errors import RequestError

__all__ = ["karras"]


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """Noise levels evenly spaced in σ^(1/ρ), falling from `sigma_max`, and a final 0.

    steps: how many levels, that is, how many steps a sampler will take; at least 1.
    sigma_min: the last level before 0; the only level of one step is `sigma_max`.

    Raises RequestError unless 0 < sigma_min ≤ sigma_max.  (Karras et al. 2022, equation 5)
    """
    if steps < 1:
        raise RequestError(f"steps {steps}: a sampler takes at least 1")
    if not 0 < sigma_min <= sigma_max < math.inf:
        raise RequestError(
            f"noise levels from {sigma_max} down to {sigma_min}: both must be finite and above 0, "
            "the larger one first"
        )
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    span = max(steps - 1, 1)
    return [(high + i / span * (low - high)) ** rho for i in range(steps)] + [0.0]
