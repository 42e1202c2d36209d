"""Samplers against closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from kinora.diffusion import SAMPLERS, Sampler, adams, dpmpp_2m, euler, heun, karras
from kinora.types import Latents, PerClip

SPREAD = 0.5
ALL = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())


def gaussian(x: Latents, sigma: PerClip, /) -> Latents:
    """The ideal denoiser of normal data of deviation s: D(x; σ) = x·s²/(s² + σ²)."""
    return x * (SPREAD**2 / (SPREAD**2 + sigma**2))[:, None, None, None, None]


def two_modes(x: Latents, sigma: PerClip, /) -> Latents:
    """The ideal denoiser of data around −1 and 1, each of deviation s."""
    spread = (sigma**2 + SPREAD**2)[:, None, None, None, None]
    mode = torch.tanh(x / spread)
    return (SPREAD**2 * x + (spread - SPREAD**2) * mode) / spread


def error(sampler: Sampler, steps: int) -> float:
    """Distance to the exact solution x(σ) = x₀·√((s² + σ²)/(s² + σ₀²)), at the lowest level."""
    sigmas = karras(steps, 0.01, 20.0)[:-1]
    x = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64) * sigmas[0]
    *_, last = sampler(gaussian, x, sigmas)
    s = SPREAD**2
    exact = sigmas[0] * math.sqrt((s + sigmas[-1] ** 2) / (s + sigmas[0] ** 2))
    return abs(last.x.item() - exact)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2), (dpmpp_2m, 2), (adams, 3)])
def test_a_sampler_converges_at_its_order(sampler: Sampler, order: int) -> None:
    measured = math.log2(error(sampler, 160) / error(sampler, 320))
    assert measured > order - 0.15
    assert measured < order + 0.15 or sampler is adams, "this one does better on normal data"


def test_adams_is_nearest_at_few_and_at_many_steps() -> None:
    """On data with two modes, whose ideal denoiser is no rational function of the noise level."""
    start = torch.tensor([7.0, -3.0, 15.0, 0.5], dtype=torch.float64).view(4, 1, 1, 1, 1)

    def end(sampler: Sampler, steps: int) -> Tensor:
        *_, last = sampler(two_modes, start, karras(steps, 0.01, 20.0)[:-1])
        return last.x

    exact = end(adams, 5000)
    for steps in (8, 10, 14, 20, 40):
        errors = [(end(s, steps) - exact).abs().max().item() for s in (euler, dpmpp_2m, adams)]
        assert errors[2] < min(errors[:2]) / 2
    rates = [(end(adams, n) - exact).abs().max().item() for n in (40, 80, 160)]
    assert all(before / after > 2**2.85 for before, after in pairwise(rates))


@ALL
def test_a_constant_denoiser_is_reached_exactly(sampler: Sampler) -> None:
    target = torch.randn(2, 3, 4, 5, 6)
    for steps in (1, 2, 7):
        sigmas = karras(steps, 0.002, 700.0)
        x = torch.randn_like(target) * sigmas[0]
        *_, last = sampler(lambda x, sigma, /: target, x, sigmas)
        assert torch.equal(last.x, target)


@ALL
def test_normal_noise_becomes_normal_data(sampler: Sampler) -> None:
    sigmas = karras(60, 0.002, 80.0)
    x = torch.randn(4, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    *_, last = sampler(gaussian, x, sigmas)
    assert last.x.std().item() == pytest.approx(SPREAD, rel=0.1)


@ALL
def test_steps_tell_each_level_after_the_first(sampler: Sampler) -> None:
    sigmas = karras(5, 0.1, 10.0)
    x = torch.randn(1, 2, 3, 4, 5) * 10
    steps = list(sampler(gaussian, x, sigmas))
    assert [step.sigma for step in steps] == sigmas[1:]
    assert all(step.x.shape == step.denoised.shape == x.shape for step in steps)
    assert torch.equal(steps[-1].x, steps[-1].denoised)


@ALL
def test_what_is_passed_in_is_not_changed(sampler: Sampler) -> None:
    x = torch.randn(1, 2, 3, 4, 5)
    kept = x.clone()
    list(sampler(gaussian, x, karras(4, 0.1, 10.0)))
    assert torch.equal(x, kept)


@ALL
def test_a_clip_does_not_depend_on_its_batch(sampler: Sampler) -> None:
    x = torch.randn(3, 2, 3, 4, 5)
    sigmas = karras(4, 0.1, 10.0)
    *_, together = sampler(gaussian, x, sigmas)
    *_, alone = sampler(gaussian, x[1:2], sigmas)
    torch.testing.assert_close(together.x[1:2], alone.x)


@pytest.mark.parametrize(("sampler", "calls"), [(euler, 6), (heun, 11), (dpmpp_2m, 6), (adams, 6)])
def test_calls_of_the_denoiser(sampler: Sampler, calls: int) -> None:
    counted: list[float] = []

    def denoise(x: Tensor, sigma: Tensor, /) -> Tensor:
        counted.append(sigma[0].item())
        return gaussian(x, sigma)

    list(sampler(denoise, torch.randn(1, 1, 1, 2, 2), karras(6, 0.1, 10.0)))
    assert len(counted) == calls
    assert min(counted) > 0
