"""What only a CUDA GPU can show; skipped where there is none."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import kinora
from kinora.amounts import parse_bytes
from kinora.errors import KinoraWarning
from kinora.runtime import PreparedUNet, Recorded, Reusing, attention, decode, plan
from kinora.runtime.attention import attend
from kinora.runtime.sizes import SIZES
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
    pipeline.residency.arrange = lambda job, again=False: None
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


def test_fp32_is_fp32_on_a_gpu_unless_tf32_is_asked_for() -> None:
    """Whatever torch's own default, which is TF32 for convolutions."""
    images = torch.randn(1, 3, 128, 128)
    asked = dict.fromkeys(("fps", "motion", "noise_aug"), torch.zeros(1))
    expected = kinora.load("nano", device="cpu").encode(images, pixel_noise=images, **asked)
    errors: dict[bool, float] = {}
    for tf32 in (False, True):
        pipeline = kinora.load("nano", device="cuda", dtype="float32", tf32=tf32)
        found = pipeline.encode(images, pixel_noise=images, **asked)
        errors[tf32] = (found.image.cpu() - expected.image).abs().max().item()
    scale = expected.image.abs().max().item()
    assert errors[False] < 1e-4 * scale
    assert errors[True] > 3 * errors[False]


def test_recording_is_not_disturbed_by_other_threads(file: Path) -> None:
    unet = kinora.load(file, device="cuda", dtype="float32").unet
    assert isinstance(unet, PreparedUNet)
    recorded, stop = Recorded(unet), threading.Event()

    def allocate() -> None:
        while not stop.is_set():
            torch.empty(1 << 20, device="cuda").zero_()
            torch.cuda.empty_cache()

    condition = Condition(
        torch.randn(2, 1, 4, 8, 8, device="cuda"),
        torch.randn(2, 1, SMALL.unet.context_dim, device="cuda"),
        torch.ones(2, 3, device="cuda"),
    )
    x, noise = torch.randn(1, 3, 4, 8, 8, device="cuda"), torch.zeros(1, device="cuda")
    thread = threading.Thread(target=allocate)
    thread.start()
    try:
        answers = [recorded(x, noise, condition) for _ in range(3)]
    finally:
        stop.set()
        thread.join()
    assert recorded.possible
    assert recorded.stream is not None
    assert recorded.stream.device == unet.conv_in.weight.device
    for found in answers:
        torch.testing.assert_close(found, unet(x, noise, condition), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
def test_every_gpu_records_on_a_stream_of_its_own() -> None:
    asked = {"seed": 0, "steps": 3, "frames": 4}
    clips = [
        kinora.load("nano", device=device, compiled=True).animate("examples/rocket.jpg", **asked)
        for device in ("cuda:0", "cuda:1")
    ]
    assert psnr(*clips) > 45


def test_torch_holds_no_more_than_the_limit() -> None:
    pipeline = kinora.load("nano", device="cuda", memory="1GiB")
    own = torch.cuda.get_per_process_memory_fraction(0)
    with pipeline.computing(), pytest.raises(torch.OutOfMemoryError):
        torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
    assert torch.cuda.get_per_process_memory_fraction(0) == own
    torch.empty(2 << 30, dtype=torch.uint8, device="cuda")


def test_where_memory_runs_out_the_clip_is_made_in_less() -> None:
    asked = {"seed": 0, "steps": 2}
    expected = kinora.load("nano", device="cuda").animate("examples/rocket.jpg", **asked)
    pipeline = kinora.load("nano", device="cuda")
    calls = iter(range(100))

    def overfill(*_: object) -> None:
        if next(calls) == 1:
            torch.empty(1 << 50, dtype=torch.uint8, device="cuda")

    hook = pipeline.unet.register_forward_hook(overfill)
    with pytest.warns(KinoraWarning, match="out of memory"):
        found = pipeline.animate("examples/rocket.jpg", **asked)
    hook.remove()
    assert psnr(found, expected) > 45


def test_blocks_are_pinned_once_for_all_clips(file: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    pipeline = kinora.load(file, device="cuda", dtype="float32")
    pipeline.residency.follow(turns=True, streaming=True)
    pipeline.residency.arrange = lambda job, again=False: None
    pipeline.animate(photo, steps=1, seed=0)
    places = {name: copy.data_ptr() for name, copy in pipeline.residency.pinned.copies.items()}
    assert places
    assert all(copy.is_pinned() for copy in pipeline.residency.pinned.copies.values())
    pipeline.animate(photo, steps=1, seed=0)
    after = {name: copy.data_ptr() for name, copy in pipeline.residency.pinned.copies.items()}
    assert after == places
    pipeline.residency.follow(turns=False, streaming=False)
    assert not pipeline.residency.pinned.copies


@pytest.mark.parametrize("tile", SIZES["cuda"].tiles)
def test_what_is_counted_of_the_decoder_is_what_a_gpu_holds(tile: int) -> None:
    config = kinora.load("nano", device="cpu").config
    vae = kinora.load("nano", device="cuda", dtype="float16").vae
    latents = torch.randn(1, 8, config.vae.latent_channels, 64, 64, device="cuda")
    decode(vae, latents, tile=tile)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    decode(vae, latents, tile=tile)
    held = torch.cuda.max_memory_allocated() - before
    shape = (8, 64 * config.vae.factor, 64 * config.vae.factor)
    counted = plan._decoding(config, torch.float16, "cuda", tile, *shape)
    assert held < 1.1 * counted + plan.BASE["cuda"]
