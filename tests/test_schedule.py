"""Noise levels."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinora.config import MAX_CONSISTENCY_STEPS
from kinora.diffusion import SCHEDULES, align_your_steps, consistency_levels, exponential, karras
from kinora.errors import RequestError


@given(
    steps=st.integers(2, 40),
    low=st.floats(1e-4, 1.0),
    ratio=st.floats(1.5, 1e6),
    name=st.sampled_from(sorted(SCHEDULES)),
)
def test_every_schedule_falls_from_the_highest_level_to_0(
    steps: int, low: float, ratio: float, name: str
) -> None:
    steps = min(steps, MAX_CONSISTENCY_STEPS) if name == "consistency" else steps
    sigmas = SCHEDULES[name](steps, low, low * ratio, 7.0)
    assert len(sigmas) == steps + 1
    assert math.isclose(sigmas[0], low * ratio, rel_tol=1e-9)
    assert sigmas[-2] >= low * (1 - 1e-9)
    assert sigmas[-1] == 0
    assert all(a > b for a, b in pairwise(sigmas))


@given(
    steps=st.integers(2, 200),
    low=st.floats(1e-4, 1.0),
    ratio=st.floats(1.01, 1e6),
    rho=st.floats(1.0, 10.0),
)
def test_levels_fall_from_the_highest_to_the_lowest_and_end_in_0(
    steps: int, low: float, ratio: float, rho: float
) -> None:
    sigmas = karras(steps, low, low * ratio, rho)
    assert len(sigmas) == steps + 1
    assert math.isclose(sigmas[0], low * ratio, rel_tol=1e-9)
    assert math.isclose(sigmas[-2], low, rel_tol=1e-9)
    assert sigmas[-1] == 0
    assert all(a > b for a, b in pairwise(sigmas))


def test_levels_are_evenly_spaced_in_their_root() -> None:
    roots = [sigma ** (1 / 7) for sigma in karras(9, 0.002, 700.0)[:-1]]
    gaps = [a - b for a, b in pairwise(roots)]
    assert all(math.isclose(gap, gaps[0], rel_tol=1e-9) for gap in gaps)


def test_one_step_goes_from_the_highest_level_to_0() -> None:
    assert karras(1, 0.002, 700.0) == pytest.approx([700.0, 0.0])


def test_exponential_levels_have_one_ratio() -> None:
    ratios = [a / b for a, b in pairwise(exponential(9, 0.002, 700.0)[:-1])]
    assert ratios == pytest.approx([ratios[0]] * 8)


def test_aligned_steps_are_the_published_ones() -> None:
    """Sabour et al. 2024, for Stable Video Diffusion."""
    published = [700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.0]
    assert align_your_steps(10, 0.002, 700.0) == pytest.approx(published)
    assert align_your_steps(5, 0.002, 700.0) == pytest.approx([*published[:-1:2], 0.0])
    twice = align_your_steps(20, 0.002, 700.0)
    assert twice[1] == pytest.approx(math.sqrt(700.0 * 54.5))


def test_consistency_levels_are_those_of_animatelcm() -> None:
    expected = [700.0, 128.564, 13.678, 0.4969, 0.0]
    assert consistency_levels(4, 0.002, 700.0) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(RequestError, match="1 to 20 steps"):
        consistency_levels(21, 0.002, 700.0)


@pytest.mark.parametrize("steps", range(1, 21))
def test_consistency_levels_are_every_so_many_of_forty_down_to_the_last(steps: int) -> None:
    """In closed form: σ at index i·(40 // n) of 39, for each number of steps there is."""
    high, low = 700.0 ** (1 / 7), 0.002 ** (1 / 7)
    indices = [i * (40 // steps) for i in range(steps)]
    expected = [(high + i / 39 * (low - high)) ** 7 for i in indices]
    *levels, end = consistency_levels(steps, 0.002, 700.0)
    assert levels == pytest.approx(expected, rel=1e-9)
    assert end == 0
    assert indices[-1] <= 39


@pytest.mark.parametrize(
    ("steps", "low", "high"), [(0, 0.1, 1.0), (3, 0.0, 1.0), (3, 2.0, 1.0), (3, 0.1, math.nan)]
)
def test_levels_that_cannot_be_meant_are_refused(steps: int, low: float, high: float) -> None:
    with pytest.raises(RequestError, match=r"steps 0|noise levels"):
        karras(steps, low, high)
