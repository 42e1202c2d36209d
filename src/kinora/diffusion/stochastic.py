"""Samplers that add fresh noise on the way.

They are given where the noise comes from, so that a seed means the same on every device.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import torch

from kinora.diffusion.samplers import Extrapolation, at
from kinora.types import Denoiser, Latents, Step

__all__ = ["STOCHASTIC", "Noise", "StochasticSampler", "consistency", "dpmpp_2m_sde"]

Noise = Callable[[], Latents]
"""Fresh unit normal noise of the latents' shape, at every call."""

StochasticSampler = Callable[[Denoiser, Latents, Sequence[float], Noise], Iterator[Step]]
"""A sampler that is told where noise comes from."""


def dpmpp_2m_sde(
    denoise: Denoiser, x: Latents, sigmas: Sequence[float], noise: Noise
) -> Iterator[Step]:
    """Second order in its drift, one call a step: SDE-DPM-Solver++(2M) in EDM form.

    x' = D̃ + (σ'/σ)²·(x − D̃) + σ'·√(1 − (σ'/σ)²)·z, with D̃ as in `dpmpp_2m`.
    (Lu et al. 2022, arXiv 2211.01095, appendix; the reverse SDE of Karras et al. 2022 at η = 1)
    """
    extrapolate = Extrapolation()
    for sigma, sigma_next in pairwise(sigmas):
        denoised, ratio = at(denoise, x, sigma), sigma_next / sigma
        x = torch.lerp(extrapolate(denoised, sigma, sigma_next), x, ratio**2)
        if sigma_next > 0:
            x = x + sigma_next * math.sqrt(1 - ratio**2) * noise()
        yield Step(sigma_next, x, denoised)


def consistency(
    denoise: Denoiser, x: Latents, sigmas: Sequence[float], noise: Noise
) -> Iterator[Step]:
    """For weights that were distilled to denoise in one call: denoise, add noise, denoise again.

    x' = D + σ'·z.  (Song et al. 2023, "Consistency Models", Algorithm 1, at σ_min = 0)
    """
    for sigma, sigma_next in pairwise(sigmas):
        x = denoised = at(denoise, x, sigma)
        if sigma_next > 0:
            x = x + sigma_next * noise()
        yield Step(sigma_next, x, denoised)


STOCHASTIC: Final[dict[str, StochasticSampler]] = {
    "dpmpp-2m-sde": dpmpp_2m_sde,
    "consistency": consistency,
}
"""By the names that a request uses."""
