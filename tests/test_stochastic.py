"""Samplers that add noise: what they must become whatever the noise, and with it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kinora.diffusion import STOCHASTIC, StochasticSampler, consistency, dpmpp_2m_sde, karras
from tests.test_samplers import SPREAD, gaussian

ALL = pytest.mark.parametrize("sampler", STOCHASTIC.values(), ids=STOCHASTIC.keys())


def source(x: Tensor) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(1)
    return lambda: torch.randn(x.shape, generator=generator)


@ALL
def test_a_constant_denoiser_is_reached_exactly(sampler: StochasticSampler) -> None:
    target = torch.randn(2, 3, 4, 5, 6)
    for steps in (1, 2, 7):
        x = torch.randn_like(target)
        *_, last = sampler(lambda x, sigma, /: target, x, karras(steps, 0.1, 9.0), source(x))
        assert torch.equal(last.x, target)


def test_normal_noise_becomes_normal_data() -> None:
    sigmas = karras(100, 0.002, 80.0)
    x = torch.randn(4, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    *_, last = dpmpp_2m_sde(gaussian, x, sigmas, source(x))
    assert last.x.std().item() == pytest.approx(SPREAD, rel=0.05)


def test_without_noise_the_drift_is_twice_the_ode_s() -> None:
    """dx = 2·(x − D)/σ dσ: for data of deviation s, x ∝ s² + σ² and D stands still: it is exact."""
    sigmas = karras(7, 0.01, 20.0)[:-1]
    x = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64) * sigmas[0]
    *_, last = dpmpp_2m_sde(gaussian, x, sigmas, lambda: torch.zeros_like(x))
    first, lowest = (SPREAD**2 + sigma**2 for sigma in (sigmas[0], sigmas[-1]))
    assert last.x.item() == pytest.approx(sigmas[0] * lowest / first, rel=1e-9)


def test_a_consistency_model_sees_its_own_answer_with_fresh_noise() -> None:
    seen: list[Tensor] = []
    noises = [torch.randn(1, 1, 1, 2, 2) for _ in range(2)]
    fresh = iter(noises)

    def denoise(x: Tensor, sigma: Tensor, /) -> Tensor:
        seen.append(x)
        return torch.full_like(x, sigma[0].item())

    steps = list(
        consistency(denoise, torch.zeros(1, 1, 1, 2, 2), [9.0, 3.0, 1.0, 0.0], fresh.__next__)
    )
    torch.testing.assert_close(seen[1], 9 + 3 * noises[0])
    torch.testing.assert_close(seen[2], 3 + 1 * noises[1])
    assert torch.equal(steps[-1].x, torch.ones(1, 1, 1, 2, 2))


@ALL
def test_the_same_noise_gives_the_same_latents(sampler: StochasticSampler) -> None:
    x = torch.randn(1, 2, 3, 4, 5)
    first, second = (list(sampler(gaussian, x, karras(5, 0.1, 10.0), source(x))) for _ in range(2))
    assert [step.sigma for step in first] == karras(5, 0.1, 10.0)[1:]
    assert torch.equal(first[-1].x, second[-1].x)
