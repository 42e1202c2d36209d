"""Noise levels, preconditioning, guidance and Euler against the original implementation.

Reads sampler.safetensors in ../shared/golden, or in the folder that KINORA_GOLDEN names; every
parameter comes from the file.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from kinora.diffusion import euler, guided, karras, precondition
from kinora.types import Condition

DEFAULT = Path(__file__).parents[2] / "shared" / "golden"


@dataclass(frozen=True)
class Golden:
    tensors: dict[str, Tensor]
    sigma_min: float
    sigma_max: float
    rho: float
    num_frames: int
    min_scale: float
    max_scale: float
    steps: list[int]


@pytest.fixture(scope="module")
def golden() -> Golden:
    path = Path(os.environ.get("KINORA_GOLDEN", DEFAULT)) / "sampler.safetensors"
    if not path.is_file():
        pytest.skip(f"no reference data at {path}: set KINORA_GOLDEN to its folder")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Golden(tensors, **json.loads(file.metadata()["config"]))


def toy(x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
    """The toy network that golden/README.md defines, on whole clips."""
    told = 0.2 * c_noise.cos() * condition.context.mean((1, 2))
    told = told + 0.1 * (c_noise + condition.vector.sum(1)).sin()
    return 0.6 * x + 0.3 * (x + condition.image).tanh() + told[:, None, None, None, None]


def test_sigmas(golden: Golden) -> None:
    found = [name for name in golden.tensors if name.startswith("sigmas.")]
    assert found
    for name in found:
        stored = golden.tensors[name]
        ours = karras(len(stored) - 1, golden.sigma_min, golden.sigma_max, golden.rho)
        torch.testing.assert_close(torch.tensor(ours), stored, atol=0, rtol=1e-5)


def test_scaling(golden: Golden) -> None:
    """With x = 1 and a network that answers 0, D is c_skip; with x = 0 and one that answers 1,
    c_out; what the network is handed for x = 1 is c_in."""
    sigma = golden.tensors["scaling.sigma"].flatten()
    b = len(sigma)
    condition = Condition(torch.zeros(b, 1, 1, 1, 1), torch.zeros(b, 1, 1), torch.zeros(b, 3))
    one = torch.ones(b, 1, 1, 1, 1)
    handed: dict[str, Tensor] = {}

    def silent(x: Tensor, c_noise: Tensor, told: Condition) -> Tensor:
        handed.update(c_in=x, c_noise=c_noise)
        return torch.zeros_like(x)

    handed["c_skip"] = precondition(silent, condition)(one, sigma)
    handed["c_out"] = precondition(lambda x, c, told, /: one, condition)(0 * one, sigma)
    for name in ("c_skip", "c_out", "c_in", "c_noise"):
        stored = golden.tensors[f"scaling.{name}"].flatten()
        torch.testing.assert_close(handed[name].flatten(), stored, atol=1e-6, rtol=0)


def test_toy_run(golden: Golden) -> None:
    context, vector = golden.tensors["toy.crossattn"], golden.tensors["toy.vector"]
    frames = golden.num_frames
    # Our condition has one context and one vector a clip, the toy run one a frame: a frame there is
    # a clip here, with its own guidance scale.
    condition = Condition(golden.tensors["toy.concat"][:, None], context, vector)
    scale = torch.linspace(golden.min_scale, golden.max_scale, frames)[:, None]
    for steps in golden.steps:
        sigmas = karras(steps, golden.sigma_min, golden.sigma_max, golden.rho)
        x = golden.tensors["toy.noise"][:, None] * math.sqrt(1 + sigmas[0] ** 2)
        walk = list(euler(guided(toy, condition, scale), x, sigmas))
        states = torch.stack([x, *(step.x for step in walk)])[:, :, 0]
        denoised = torch.stack([step.denoised for step in walk])[:, :, 0]
        for name, ours, rtol in (
            ("states", states, 1e-5),
            ("denoised", denoised, 0.0),
            ("final", states[-1], 0.0),
        ):
            stored = golden.tensors[f"toy.{steps}.{name}"]
            torch.testing.assert_close(ours, stored, atol=2e-5, rtol=rtol)
