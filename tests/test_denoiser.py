"""Preconditioning and guidance."""

import pytest
import torch
from torch import Tensor

from kinora.diffusion import euler, guided, karras, precondition
from kinora.types import Condition, Network

B, T, C, H, W = 2, 3, 4, 5, 6


def toy(x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
    """A network in which everything matters: latents, noise level, and all of the condition."""
    repeats = len(condition.vector) // len(x)
    x, c_noise = x.repeat(repeats, 1, 1, 1, 1), c_noise.repeat(repeats)
    told = c_noise + condition.context.mean((1, 2)) + condition.vector.sum(1)
    return 0.6 * x + torch.tanh(x + condition.image) + told[:, None, None, None, None].to(x.dtype)


def condition(dtype: torch.dtype = torch.float32) -> Condition:
    return Condition(
        torch.randn(B, 1, C, H, W, dtype=dtype),
        torch.randn(B, 1, 7, dtype=dtype),
        torch.randn(B, 3),
    )


def latents() -> tuple[Tensor, Tensor]:
    return torch.randn(B, T, C, H, W), torch.tensor([0.3, 20.0])


def column(sigma: Tensor) -> Tensor:
    return sigma[:, None, None, None, None]


def test_preconditioning_is_v_prediction_in_edm_form() -> None:
    told, (x, sigma) = condition(), latents()
    s = column(sigma)
    f = toy(x / (s**2 + 1).sqrt(), sigma.log() / 4, told)
    expected = x / (s**2 + 1) - s / (s**2 + 1).sqrt() * f
    torch.testing.assert_close(precondition(toy, told)(x, sigma), expected)


def test_a_network_that_knows_v_denoises_exactly() -> None:
    clean, noise = torch.randn(2, B, T, C, H, W)
    sigma = torch.tensor([0.01, 3.0])
    s = column(sigma)

    def knows_v(x: Tensor, c_noise: Tensor, told: Condition) -> Tensor:
        level = column((4 * c_noise).exp())
        return (noise - level * clean) / (level**2 + 1).sqrt()

    denoised = precondition(knows_v, condition())(clean + s * noise, sigma)
    torch.testing.assert_close(denoised, clean, atol=1e-5, rtol=1e-5)


def test_one_level_a_clip() -> None:
    told, (x, sigma) = condition(), latents()
    alone = precondition(toy, Condition(*(part[1:] for part in told)))(x[1:], sigma[1:])
    torch.testing.assert_close(precondition(toy, told)(x, sigma)[1:], alone)


def test_guidance_extrapolates_frame_by_frame() -> None:
    told, (x, sigma) = condition(), latents()
    scale = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.5, 9.0]])
    given = precondition(toy, told)(x, sigma)
    without = precondition(toy, told.unconditional())(x, sigma)
    expected = without + scale[:, :, None, None, None] * (given - without)
    torch.testing.assert_close(guided(toy, told, scale)(x, sigma), expected)


def test_scale_1_is_no_guidance_and_0_is_no_condition() -> None:
    told, (x, sigma) = condition(), latents()
    one = torch.ones(B, T)
    torch.testing.assert_close(guided(toy, told, one)(x, sigma), precondition(toy, told)(x, sigma))
    torch.testing.assert_close(
        guided(toy, told, 0 * one)(x, sigma), precondition(toy, told.unconditional())(x, sigma)
    )


@pytest.mark.parametrize(("scale", "clips"), [(1.0, B), (2.0, 2 * B)])
def test_both_halves_share_latents_in_one_call_and_scale_1_asks_for_one_half(
    scale: float, clips: int
) -> None:
    calls: list[int] = []

    def counting(x: Tensor, c_noise: Tensor, told: Condition) -> Tensor:
        calls.append(len(told.vector))
        assert len(x) == len(c_noise) == B
        if len(told.vector) > B:
            assert not told.image[:B].any()
            assert not told.context[:B].any()
            assert torch.equal(told.vector[:B], told.vector[B:])
        return toy(x, c_noise, told)

    guided(counting, condition(), torch.full((B, T), scale))(*latents())
    assert calls == [clips]


def test_guidance_is_left_out_beyond_its_interval() -> None:
    told, (x, _) = condition(), latents()
    scale = torch.full((B, T), 3.0)
    within = guided(toy, told, scale, interval=(0.5, 5.0))
    for level in (0.4, 0.5, 5.0, 6.0):
        sigma = torch.full((B,), level)
        follows = guided(toy, told, scale if 0.5 <= level <= 5 else torch.ones(B, T))
        torch.testing.assert_close(within(x, sigma), follows(x, sigma))


def test_guidance_computed_at_every_nth_call_is_used_again_in_between() -> None:
    told, (x, sigma) = condition(), latents()
    scale = torch.rand(B, T) * 4
    rows: list[int] = []

    def counting(x: Tensor, c_noise: Tensor, told: Condition) -> Tensor:
        rows.append(len(told.vector))
        return toy(x, c_noise, told)

    sparing = guided(counting, told, scale, every=3)
    always = guided(toy, told, scale)
    for _ in range(7):
        torch.testing.assert_close(sparing(x, sigma), always(x, sigma))
    assert rows == [2 * B, B, B, 2 * B, B, B, 2 * B]

    moved = x + 1
    given, given_before = (precondition(toy, told)(at, sigma) for at in (moved, x))
    kept = always(x, sigma) - given_before
    torch.testing.assert_close(sparing(moved, sigma) - given, kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_gives_latents_in_full(dtype: torch.dtype) -> None:
    seen: list[torch.dtype] = []

    def half(x: Tensor, c_noise: Tensor, told: Condition) -> Tensor:
        seen.extend((x.dtype, c_noise.dtype))
        return toy(x, c_noise, told)

    x, sigma = latents()
    for scale in (1.0, 3.0):
        denoised = guided(half, condition(dtype), torch.full((B, T), scale))(x, sigma)
        assert denoised.dtype == torch.float32
    assert set(seen) == {dtype, torch.float32}


def test_gradients_flow_in_training_and_not_in_sampling() -> None:
    weight = torch.ones((), requires_grad=True)

    def network(x: Tensor, c_noise: Tensor, told: Condition) -> Tensor:
        return weight * toy(x, c_noise, told)

    told, (x, sigma) = condition(), latents()
    assert precondition(network, told)(x, sigma).requires_grad
    for scale in (1.0, 3.0):
        assert not guided(network, told, torch.full((B, T), scale))(x, sigma).requires_grad


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_sampling_leaves_the_grad_mode_of_whoever_iterates_alone(scale: float) -> None:
    network: Network = toy
    denoise = guided(network, condition(), torch.full((B, T), scale))
    for _ in euler(denoise, torch.randn(B, T, C, H, W), karras(3, 0.1, 10.0)):
        assert torch.is_grad_enabled()
    with torch.no_grad():
        for _ in euler(denoise, torch.randn(B, T, C, H, W), karras(3, 0.1, 10.0)):
            assert not torch.is_grad_enabled()
