"""The optimiser that makes its steps orthogonal."""

import pytest
import torch
from torch import Tensor, nn

from kinora.config import TINY
from kinora.train import UNetTraining
from kinora.train.muon import ADAM_RMS, ITERATIONS, QUINTIC, Muon, orthogonal
from kinora.train.state import make_state
from kinora.train.unet import Trained


def matrix(rows: int, columns: int) -> Tensor:
    """One with singular values from 1 down to a hundredth."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = svd(torch.randn(rows, columns, generator=generator))
    return u * torch.logspace(0, -2, min(rows, columns)) @ v


def svd(given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, s, v = torch.linalg.svd(given, full_matrices=False)  # pyright: ignore[reportUnknownVariableType]
    return u, s, v  # pyright: ignore[reportUnknownVariableType]


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (12, 12)])
def test_it_changes_singular_values_only_and_by_the_polynomial(shape: tuple[int, int]) -> None:
    given = matrix(*shape)
    u, s, v = svd(given)
    s = s / s.norm()
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonal(given), u * s @ v, rtol=0, atol=1e-4)


def test_singular_values_come_close_to_one_whatever_the_scale() -> None:
    for scale in (1e-4, 1.0, 1e4):
        values = svd(orthogonal(scale * matrix(16, 64)))[1]
        assert 0.6 < values.min() <= values.max() < 1.25


def test_steps_have_the_size_of_adamw_s() -> None:
    weight = nn.Parameter(torch.zeros(16, 4, 3, 3))
    weight.grad = matrix(16, 36).view(weight.shape)
    Muon([weight], lr=0.01).step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.01 * ADAM_RMS, rel=0.2)


def test_it_finds_the_least_of_a_quadratic() -> None:
    goal, weight = matrix(6, 10), nn.Parameter(torch.zeros(6, 10))
    optimizer = Muon([weight], lr=0.02, weight_decay=0.0)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        optimizer.zero_grad()
        (weight - goal).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), goal, rtol=0, atol=0.01)


def test_hidden_layers_are_muon_s_and_all_others_adamw_s() -> None:
    network = Trained(TINY)
    state = make_state(network, UNetTraining(optimizer="muon"), torch.device("cpu"))
    adamw, muon = (
        {p for group in o.param_groups for p in group["params"]} for o in state.optimizers
    )
    assert adamw | muon == set(network.parameters())
    assert not adamw & muon
    assert all(p.ndim > 1 for p in muon)
    unet, encoder = network.unet, network.image_encoder
    outer = (unet.conv_in, unet.conv_out, encoder.patch_embedding, encoder.projection)
    assert {layer.weight for layer in outer} <= adamw
    assert unet.middle.transformer.proj_in.weight in muon
    assert unet.time_embedding.linear_1.weight in muon
