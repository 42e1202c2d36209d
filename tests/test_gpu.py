"""What only a CUDA GPU can show; skipped where there is none."""

from pathlib import Path

import numpy as np
import pytest
import torch

import kinora
from kinora.runtime import PreparedUNet, Recorded
from kinora.runtime.attention import quickest_attention
from kinora.types import Condition
from tests.checkpoints import SMALL, write_own

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own(tmp_path_factory.mktemp("own") / "small.safetensors", SMALL)


def psnr(a: kinora.Clip, b: kinora.Clip) -> float:
    error = np.mean((a.frames.astype(float) - b.frames) ** 2)
    return 10 * np.log10(255**2 / max(error, 1e-9))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_gpu_makes_the_clip_that_a_cpu_makes(dtype: str) -> None:
    asked = {"seed": 0, "steps": 4}
    expected = kinora.load("nano", device="cpu").animate("examples/rocket.jpg", **asked)
    found = kinora.load("nano", device="cuda", dtype=dtype).animate("examples/rocket.jpg", **asked)
    assert psnr(found, expected) > {"float32": 55, "float16": 45, "bfloat16": 30}[dtype]


@pytest.mark.parametrize("inner_every", [1, 2])
def test_a_recorded_clip_is_the_clip(inner_every: int) -> None:
    pipeline = kinora.load("nano", device="cuda", dtype="float32")
    asked = {"seed": 0, "steps": 6, "inner_every": inner_every, "guidance_every": 2}
    expected = pipeline.animate("examples/rocket.jpg", **asked)
    compiled = kinora.load("nano", device="cuda", dtype="float32", compiled=True)
    for _ in range(2):
        assert psnr(compiled.animate("examples/rocket.jpg", **asked), expected) > 50


def test_recordings_read_what_they_are_given(file: Path) -> None:
    unet = kinora.load(file, device="cuda", dtype="float32").unet
    assert isinstance(unet, PreparedUNet)
    recorded = Recorded(unet)
    condition = Condition(
        torch.randn(2, 1, 4, 8, 8, device="cuda"),
        torch.randn(2, 1, SMALL.unet.context_dim, device="cuda"),
        torch.ones(2, 3, device="cuda"),
    )
    for level in (0.5, 0.0, -0.5, -1.0):
        x, noise = torch.randn(1, 3, 4, 8, 8, device="cuda"), torch.tensor([level], device="cuda")
        torch.testing.assert_close(
            recorded(x, noise, condition), unet(x, noise, condition), atol=1e-4, rtol=1e-4
        )
    assert len(recorded.recordings) == 1


@pytest.mark.parametrize("memory", ["80MiB", "1GiB"])
def test_a_clip_is_the_same_within_any_memory(memory: str) -> None:
    asked = {"seed": 0, "steps": 2}
    expected = kinora.load("nano", device="cuda").animate("examples/rocket.jpg", **asked)
    tight = kinora.load("nano", device="cuda", memory=memory)
    torch.cuda.reset_peak_memory_stats()
    assert psnr(tight.animate("examples/rocket.jpg", **asked), expected) > 45
    assert torch.cuda.max_memory_allocated() < 1.1 * kinora.amounts.parse_bytes("memory", memory)


@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_a_quantised_clip_is_near_the_exact_one(kind: str) -> None:
    pytest.importorskip("torchao")
    asked = {"seed": 0, "steps": 4}
    expected = kinora.load("nano", device="cuda").animate("examples/rocket.jpg", **asked)
    found = kinora.load("nano", device="cuda", quantize=kind).animate(
        "examples/rocket.jpg", **asked
    )
    assert 35 < psnr(found, expected) < 90


def test_every_kernel_of_attention_gives_the_same() -> None:
    q = torch.randn(2, 5, 256, 64, device="cuda", dtype=torch.float16)
    attend = torch.nn.functional.scaled_dot_product_attention
    with quickest_attention((2, 5, 256, 64), q.dtype, q.device):
        found = attend(q, q, q)
    torch.testing.assert_close(found.float(), attend(q.float(), q.float(), q.float()), atol=1e-2,
                               rtol=1e-2)  # fmt: skip
