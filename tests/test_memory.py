"""Clips are the same however little memory there is, and what they take is known before."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import kinora
from kinora.amounts import parse_bytes, say_bytes
from kinora.config import NANO, SVD, SVD_XT, TINY, ModelConfig
from kinora.errors import CheckpointError, DeviceError, RequestError
from kinora.events import Done, Planned, Sampled
from kinora.models import VideoAutoencoder, VideoUNet
from kinora.request import Request
from kinora.runtime import PreparedUNet, decode, plan
from kinora.runtime.footprint import footprint
from kinora.runtime.plan import WAYS, Job, ample, choose, predict, weights
from kinora.runtime.streaming import passing
from kinora.types import Condition
from kinora.weights.names import NETWORKS
from tests.checkpoints import SMALL, write_own

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
LARGE = Job(SVD_XT, torch.float16, torch.float16, 2, 8, 256, 256, device="cuda")
FULL = Job(SVD_XT, torch.float16, torch.float16, 1, 25, 1024, 576, device="cuda")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own(tmp_path_factory.mktemp("own") / "small.safetensors", SMALL)


def network(pipeline: kinora.Pipeline, name: str) -> nn.Module:
    return getattr(pipeline.networks, name)


def held(*modules: nn.Module) -> list[bool]:
    """Of each module whether any parameter holds values."""
    return [not all(p.is_meta for p in module.parameters()) for module in modules]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_weights_go_with_their_pipeline(
    file: Path, way: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "WAYS", (way,))
    pipeline = kinora.load(file, device="cpu", memory="40GiB")
    pipeline.animate(PHOTO, seed=1, steps=1)
    gc.collect()  # counting memory imports torch's compiler once, which keeps its callers' frames
    gc.disable()  # nothing else is to wait for Python to look for circles
    try:
        pipeline.animate(PHOTO, seed=1, steps=1)
        seen = [weakref.ref(p) for name in NETWORKS for p in network(pipeline, name).parameters()]
        del pipeline
        assert not any(parameter() is not None for parameter in seen)
    finally:
        gc.enable()


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
def test_every_way_of_saving_memory_gives_the_same_clip(
    file: Path, way: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = kinora.load(file, device="cpu")
    expected = free.animate(PHOTO, seed=1, steps=2, guidance=(1.0, 2.5))
    tight = kinora.load(file, device="cpu", memory="40GiB")
    monkeypatch.setattr(plan, "WAYS", (way,))
    for _ in range(2):
        clip = tight.animate(PHOTO, seed=1, steps=2, guidance=(1.0, 2.5))
        assert np.abs(clip.frames.astype(int) - expected.frames).max() <= 1
        networks = tight.networks
        assert held(networks.unet, networks.vae, networks.image_encoder) == [False] * 3


def test_networks_hold_weights_while_they_work_and_blocks_two_at_a_time(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = kinora.load(file, device="cpu", memory="40GiB")
    monkeypatch.setattr(plan, "WAYS", ({"turns": True, "streaming": True},))
    unet = pipe.unet
    assert isinstance(unet, PreparedUNet)
    blocks = [passing(block) for block in unet.blocks()]
    seen: list[tuple[int, list[bool]]] = []

    def look(*_: object) -> None:
        others = held(pipe.networks.vae, pipe.networks.image_encoder)
        seen.append((sum(not p[0].is_meta for p in blocks), others))

    for block in unet.blocks():
        block.register_forward_hook(look)
    pipe.animate(PHOTO, steps=1)
    assert len(seen) == len(blocks)
    assert all(busy <= 2 for busy, _ in seen)
    assert all(others == [False, False] for _, others in seen)


def test_clips_that_take_turns_within_one_another_are_the_same(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one must not take the weights away that the first one still needs."""
    requests = [Request(image=PHOTO, seed=seed, steps=3) for seed in (0, 1)]
    free = kinora.load(file, device="cpu")
    expected = [free.animate_batch([request])[0].frames for request in requests]
    pipe = kinora.load(file, device="cpu", memory="40GiB")
    monkeypatch.setattr(plan, "WAYS", ({"turns": True},))
    found: list[np.ndarray] = []
    for event in pipe.stream(requests[0]):
        if isinstance(event, Sampled) and event.step == 1:
            found.append(pipe.animate_batch([requests[1]])[0].frames)
        if isinstance(event, Done):
            found.insert(0, event.clips[0].frames)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert pipe.residency.held == 0

    monkeypatch.setattr(plan, "WAYS", ({"turns": True, "streaming": True},))
    for event in pipe.stream(requests[0]):
        if isinstance(event, Sampled) and event.step == 1:
            with pytest.raises(DeviceError, match="streamed for another clip"):
                pipe.animate_batch([requests[1]])
        if isinstance(event, Done):
            assert np.array_equal(event.clips[0].frames, expected[0])


def test_blocks_are_told_in_the_order_in_which_they_run() -> None:
    prepared = PreparedUNet(VideoUNet(SMALL.unet).requires_grad_(False))
    ran: list[nn.Module] = []
    for block in prepared.blocks():
        block.register_forward_hook(lambda module, *_: ran.append(module))
    condition = Condition(torch.zeros(1, 1, 4, 8, 8), torch.zeros(1, 1, 32), torch.zeros(1, 3))
    prepared(torch.zeros(1, 2, 4, 8, 8), torch.zeros(1), condition)
    assert list(prepared.blocks()) == ran


def test_what_is_counted_without_values_is_what_is_held_with_them() -> None:
    def work(device: str) -> Iterator[int]:
        with torch.device(device):
            unet = PreparedUNet(VideoUNet(SMALL.unet).requires_grad_(False))
            vae = VideoAutoencoder(SMALL.vae).requires_grad_(False)
            x, noise = torch.zeros(1, 3, 4, 8, 8), torch.zeros(1)
            told = Condition(torch.zeros(2, 1, 4, 8, 8), torch.zeros(2, 1, 32), torch.zeros(2, 3))
        yield footprint(lambda: unet(x, noise, told))
        yield footprint(lambda: decode(vae, x))

    assert list(work("meta")) == list(work("cpu"))


def test_a_footprint_is_the_most_that_is_held_at_a_time() -> None:
    given = torch.zeros(1000)

    def compute() -> None:
        first = given + 1  # 4,000 bytes
        view = first.view(10, 100).t()
        second = torch.cat([view, view])  # 8,000 more
        del first, view
        second.add_(1)
        _ = second[0] + 1  # 400, with 8,000 left

    assert footprint(compute) == 12_000


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_the_decoder_takes_as_much_for_every_further_frame(frames: int) -> None:
    found = [predict(Job(TINY, torch.float32, torch.float32, 1, n, 64, 64), 0).decoding
             for n in (frames, frames + 1, frames + 2)]  # fmt: skip
    if frames > 1:
        assert found[2] - found[1] == found[1] - found[0]
    assert found[2] > found[1] > found[0]


def test_less_memory_asks_for_more_measures_until_there_is_too_little() -> None:
    plans = [predict(LARGE, 0, **way) for way in WAYS]
    sampling = [plan.sampling for plan in plans]
    assert sampling == sorted(set(sampling), reverse=True)
    peaks = [plan.peak for plan in plans]
    assert peaks == sorted(peaks, reverse=True)
    for peak in set(peaks):
        chosen = choose(LARGE, peak, reread=True)
        assert chosen.peak == peak == chosen.budget
        measures = {name: getattr(chosen, name) for name in ("turns", "streaming", "apart")}
        quickest = WAYS[peaks.index(peak)]
        assert {name: True for name, taken in measures.items() if taken} == quickest
    with pytest.raises(DeviceError, match=r"take at least .* there are .* Lower --size") as refused:
        choose(LARGE, peaks[-1] - 1, reread=True)
    assert say_bytes(peaks[-1]) in str(refused.value)


def test_svd_xt_makes_its_full_clips_below_6_gib() -> None:
    chosen = choose(FULL, 6 << 30, reread=True)
    assert not chosen.streaming
    assert chosen.peak <= 6 << 30


def test_where_weights_come_from_no_file_only_halves_are_parted() -> None:
    job = Job(NANO, torch.float32, torch.float32, 8, 8, 64, 64)
    plan = choose(job, predict(job, 0).peak - 1, reread=False)
    assert (plan.turns, plan.apart, plan.streaming) == (False, True, False)


@pytest.mark.parametrize("config", [TINY, NANO, SVD], ids=lambda c: c.name)
@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("size", [(128, 64), (256, 256)])
def test_nothing_is_left_uncounted_that_might_not_fit(
    config: ModelConfig, frames: int, size: tuple[int, int]
) -> None:
    job = Job(config, torch.float32, torch.float32, 1, frames, *size)
    peak = predict(job, 0).peak
    assert not ample(job, peak)
    assert ample(job, 64 << 30)


def test_weights_are_counted_as_they_are_loaded(file: Path) -> None:
    for dtype in ("float32", "float16"):
        networks = kinora.load(file, device="cpu", dtype=dtype).networks
        precision = getattr(torch, dtype)
        job = Job(networks.config, precision, precision, 1, 3, 64, 64)
        for name in ("unet", "vae", "image_encoder"):
            loaded = sum(p.nbytes for p in getattr(networks, name).parameters())
            assert weights(job, name) == loaded


def test_a_pipeline_says_what_it_does_for_memory_and_keeps_to_it(file: Path) -> None:
    ample_one = kinora.load(file, device="cpu")
    request = Request(image=PHOTO, seed=0, steps=1)
    assert not [e for e in ample_one.stream(request) if isinstance(e, Planned)]
    limited = kinora.load(file, device="cpu", memory=450 << 20)
    (said,) = [e.memory for e in limited.stream(request) if isinstance(e, Planned)]
    assert said.peak <= said.budget == 450 << 20
    with pytest.raises(DeviceError, match="not enough memory: 3 frames of 64x64 with small"):
        kinora.load(file, device="cpu", memory="10MB").animate(PHOTO)


def test_damaged_weights_are_one_clear_error_whenever_they_are_found(
    file: Path, tmp_path: Path
) -> None:
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    tensors["unet.middle.resnets.0.space.conv1.weight"].view(-1)[7] = float("nan")
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    with pytest.raises(CheckpointError, match=r"unet\.middle\.resnets\.0.* holds NaN"):
        kinora.load(tmp_path / "bad.safetensors", device="cpu")
    later = kinora.load(tmp_path / "bad.safetensors", device="cpu", wait=False)
    with pytest.raises(CheckpointError, match=r"unet\.middle\.resnets\.0.* holds NaN"):
        later.animate(PHOTO)


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.1])
def test_a_program_may_end_while_weights_are_loaded(seconds: float) -> None:
    program = f"import kinora, sys, time; p = kinora.load(wait=False); time.sleep({seconds})"
    assert subprocess.run([sys.executable, "-c", f"{program}; sys.exit(5)"]).returncode == 5


def test_the_photo_may_be_encoded_while_weights_are_loaded(file: Path) -> None:
    waited, at_once = (kinora.load(file, device="cpu", wait=wait) for wait in (True, False))
    clips = [pipe.animate(PHOTO, seed=3, steps=1) for pipe in (waited, at_once)]
    assert (clips[0].frames == clips[1].frames).all()


@pytest.mark.parametrize(
    ("text", "count"),
    [("6GiB", 6 << 30), ("5.5 gib", 11 << 29), ("800MB", 800 * 10**6), ("1024", 1024), (77, 77)],
)
def test_amounts_of_memory_are_read(text: str | int, count: int) -> None:
    assert parse_bytes("memory", text) == count


@pytest.mark.parametrize("text", ["", "much", "6 GiBs", "-1GiB", "0", "1e9", "6,5GB", "nan"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"memory .* must be an amount such as 6GiB"):
        parse_bytes("memory", text)
