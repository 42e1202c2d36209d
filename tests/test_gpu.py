"""What only a CUDA GPU can show; skipped where there is none."""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import kinora
from kinora.amounts import parse_bytes
from kinora.runtime import PreparedUNet, Recorded, Reusing, attention
from kinora.runtime.attention import attend
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


def test_recordings_read_what_they_are_given(file: Path) -> None:
    unet = kinora.load(file, device="cuda", dtype="float32").unet
    assert isinstance(unet, PreparedUNet)
    recorded = Recorded(unet)
    conditions = [
        Condition(
            torch.randn(2, 1, 4, 8, 8, device="cuda"),
            torch.randn(2, 1, SMALL.unet.context_dim, device="cuda"),
            torch.ones(2, 3, device="cuda"),
        )
        for _ in range(3)
    ]
    for level in (0.5, 0.0, -0.5, -1.0):
        x, noise = torch.randn(1, 3, 4, 8, 8, device="cuda"), torch.tensor([level], device="cuda")
        for condition in conditions:  # more than the UNet remembers
            torch.testing.assert_close(
                recorded(x, noise, condition), unet(x, noise, condition), atol=1e-4, rtol=1e-4
            )
    assert len(recorded.recordings) == len(conditions)


def test_inner_blocks_are_recorded_both_ways(file: Path) -> None:
    unet = kinora.load(file, device="cuda", dtype="float32").unet
    assert isinstance(unet, PreparedUNet)
    plain, recorded = Reusing(unet, 2), Reusing(Recorded(unet), 2)
    condition = Condition(
        torch.randn(2, 1, 4, 8, 8, device="cuda"),
        torch.randn(2, 1, SMALL.unet.context_dim, device="cuda"),
        torch.ones(2, 3, device="cuda"),
    )
    for level in (0.5, 0.0, -0.5, -1.0, -1.5, -2.0):
        x, noise = torch.randn(1, 3, 4, 8, 8, device="cuda"), torch.tensor([level], device="cuda")
        torch.testing.assert_close(
            recorded(x, noise, condition), plain(x, noise, condition), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("memory", ["160MiB", "1GiB"])
def test_a_clip_is_the_same_within_any_memory(memory: str) -> None:
    asked = {"seed": 0, "steps": 2}
    expected = kinora.load("nano", device="cuda").animate("examples/rocket.jpg", **asked)
    gc.collect()
    before = torch.cuda.memory_allocated()
    tight = kinora.load("nano", device="cuda", memory=memory)
    torch.cuda.reset_peak_memory_stats()
    assert psnr(tight.animate("examples/rocket.jpg", **asked), expected) > 45
    assert torch.cuda.max_memory_allocated() - before < 1.1 * parse_bytes("memory", memory)


def test_a_streamed_clip_is_the_clip(file: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    pipeline = kinora.load(file, device="cuda", dtype="float32")
    expected = pipeline.animate(photo, steps=3, seed=0)
    pipeline.residency.follow(turns=True, streaming=True)
    pipeline.residency.arrange = lambda job: None
    assert psnr(pipeline.animate(photo, steps=3, seed=0), expected) > 60


COMPILED = """
import numpy as np, sys, kinora
asked = dict(seed=0, steps=6, guidance_every=2)
options = dict(device="cuda", dtype=sys.argv[1])
if sys.argv[2] != "none":
    options["quantize"] = sys.argv[2]
photo = "examples/rocket.jpg"
expected = kinora.load("nano", device="cuda", dtype="float32").animate(photo, **asked)
pipeline = kinora.load("nano", compiled=True, **options)
for inner_every in (1, 1, 2):
    found = pipeline.animate(photo, inner_every=inner_every, **asked)
    error = np.mean((found.frames.astype(float) - expected.frames) ** 2)
    print(10 * np.log10(255**2 / max(error, 1e-9)))
"""


@pytest.mark.parametrize(
    ("dtype", "quantize", "least"),
    [
        ("float32", "none", 50),
        ("float16", "none", 40),
        ("bfloat16", "int8", 25),
        ("bfloat16", "float8", 25),
    ],
)
def test_a_compiled_and_recorded_clip_is_near_the_clip(
    dtype: str, quantize: str, least: float
) -> None:
    """In a process without the type checks of the tests, which torch would compile too."""
    if quantize != "none":
        pytest.importorskip("torchao")
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, dtype, quantize],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second, _ = map(float, done.stdout.split())
    assert first > least
    assert second > least


@pytest.mark.parametrize("shape", [(2, 9216, 5, 64), (512, 25, 5, 64)], ids=["space", "time"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_kernel_of_attention_gives_the_same(
    shape: tuple[int, int, int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whichever is tried, in whatever order, nobody's random numbers change."""
    monkeypatch.setattr(attention, "RANKS", {})
    q, k, v = (torch.randn(shape, device="cuda").to(dtype) for _ in range(3))
    expected = attention._attention(q.float(), k.float(), v.float())
    state = torch.cuda.get_rng_state()
    while True:
        found = attend(q, k, v)
        torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
        (ranks,) = attention.RANKS.values()
        if ranks[0] == attention.SDPBackend.MATH or len(ranks) == 2:
            break
        ranks.pop(0)
    assert torch.equal(torch.cuda.get_rng_state(), state)
