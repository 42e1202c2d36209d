"""Samplers: generators that walk noisy latents down a list of noise levels.

They see a denoiser and nothing else. Progress, previews and cancelling belong to whoever iterates.
All of them solve dx/dσ = (x − D(x; σ))/σ. With D held still its solution is
x' = D + (σ'/σ)·(x − D), a `lerp` that is exact in a step to 0.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import torch

from kinora.types import Denoiser, Latents, Step

__all__ = ["SAMPLERS", "Extrapolation", "Sampler", "adams", "at", "dpmpp_2m", "euler", "heun"]

Sampler = Callable[[Denoiser, Latents, Sequence[float]], Iterator[Step]]
"""(denoiser, latents at the first level, falling levels) → one `Step` for each level after it."""


def at(denoise: Denoiser, x: Latents, sigma: float) -> Latents:
    """The clean estimate, with every clip at the same noise level."""
    return denoise(x, x.new_full((len(x),), sigma))


def euler(denoise: Denoiser, x: Latents, sigmas: Sequence[float]) -> Iterator[Step]:
    """First order, one call a step.  (Karras et al. 2022, Algorithm 1 without the correction)

    sigmas: falling noise levels, the last one 0 for a finished clip; x is noisy at the first.
    """
    for sigma, sigma_next in pairwise(sigmas):
        denoised = at(denoise, x, sigma)
        x = torch.lerp(denoised, x, sigma_next / sigma)
        yield Step(sigma_next, x, denoised)


def heun(denoise: Denoiser, x: Latents, sigmas: Sequence[float]) -> Iterator[Step]:
    """Second order, two calls a step but one in the step to 0.  (Karras et al. 2022, Algorithm 1)

    The slopes at both ends of the step are averaged. The clean estimate yielded is the one of the
    correction, the later of the two.
    """
    for sigma, sigma_next in pairwise(sigmas):
        denoised = at(denoise, x, sigma)
        ahead = torch.lerp(denoised, x, sigma_next / sigma)
        if sigma_next > 0:
            slope = (x - denoised) / sigma
            denoised = at(denoise, ahead, sigma_next)
            slope = (slope + (ahead - denoised) / sigma_next) / 2
            ahead = x + (sigma_next - sigma) * slope
        x = ahead
        yield Step(sigma_next, x, denoised)


def dpmpp_2m(denoise: Denoiser, x: Latents, sigmas: Sequence[float]) -> Iterator[Step]:
    """Second order from the step before, one call a step: DPM-Solver++(2M) in EDM form.

    With h = ln(σ/σ') and r = h_before/h, the step follows D̃ = (1 + 1/2r)·D − D_before/2r; the
    first step and the one to 0 follow D.  (Lu et al. 2022, arXiv 2211.01095, Algorithm 2)
    """
    extrapolate = Extrapolation()
    for sigma, sigma_next in pairwise(sigmas):
        denoised = at(denoise, x, sigma)
        x = torch.lerp(extrapolate(denoised, sigma, sigma_next), x, sigma_next / sigma)
        yield Step(sigma_next, x, denoised)


class Extrapolation:
    """D̃ of DPM-Solver++(2M): remembers the estimate and the step before."""

    def __init__(self) -> None:
        self.before: tuple[Latents, float] | None = None

    def __call__(self, denoised: Latents, sigma: float, sigma_next: float) -> Latents:
        """What a step from σ to σ' follows."""
        if sigma_next == 0:
            return denoised
        h, before = math.log(sigma / sigma_next), self.before
        self.before = denoised, h
        if before is None:
            return denoised
        older, h_before = before
        return torch.lerp(denoised, older, -h / (2 * h_before))


def adams(denoise: Denoiser, x: Latents, sigmas: Sequence[float]) -> Iterator[Step]:
    """Third order, one call a step: Adams' predictor and corrector, with D a polynomial in σ.

    The parabola through the last three estimates is integrated exactly over the step before, whose
    end it corrects, and over the next one. What a step yields as x is predicted, and corrected in
    the step after. Solvers such as DPM-Solver++ and UniPC take polynomials in ln σ, which overshoot
    in large steps, where D levels off towards σ = 0 (docs/performance.md compares them).
    (The exponential multistep idea: Lu et al. 2022, "DPM-Solver++"; corrector without a call of its
    own: Zhao et al. 2023, "UniPC")
    """
    known: list[tuple[float, Latents]] = []
    start = x
    for sigma, sigma_next in pairwise(sigmas):
        known = [*known[-2:], (sigma, at(denoise, x, sigma))]
        if len(known) > 1:
            x = _integral(start, known[-2][0], sigma, known)
        start = x
        x = _integral(start, sigma, sigma_next, known)
        yield Step(sigma_next, x, known[-1][1])


def _integral(
    start: Latents, sigma: float, sigma_next: float, known: list[tuple[float, Latents]]
) -> Latents:
    """From σ to σ', with D the polynomial through the known estimates: r·start + Σ w·estimate.

    With r = σ'/σ and u the noise level over σ, D = Σ c_k·u^k gives x' = r·x + Σ c_k·m_k, where
    m_0 = 1 − r, m_1 = −r·ln r and m_k = (r − r^k)/(k − 1). The step to 0 takes the last estimate.
    """
    if sigma_next == 0:
        return known[-1][1]
    r = sigma_next / sigma
    moments = [1 - r, -r * math.log(r), r - r**2]
    places = [level / sigma for level, _ in known]
    x = r * start
    for index, (_, estimate) in enumerate(known):
        others = places[:index] + places[index + 1 :]
        scale = math.prod(places[index] - other for other in others)
        weight = sum(c * m for c, m in zip(_coefficients(others), moments, strict=False)) / scale
        x = x + weight * estimate
    return x


def _coefficients(roots: list[float]) -> list[float]:
    """Of the polynomial Π (u − root), the constant first."""
    found = [1.0]
    for root in roots:
        found = [a - root * b for a, b in zip([0.0, *found], [*found, 0.0], strict=True)]
    return found


SAMPLERS: Final[dict[str, Sampler]] = {
    "euler": euler,
    "heun": heun,
    "dpmpp-2m": dpmpp_2m,
    "adams": adams,
}
"""By the names that a request uses."""
