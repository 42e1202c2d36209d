"""Clips are the same however little memory there is, and what they take is known before."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import kinora
from kinora.amounts import parse_bytes, say_bytes
from kinora.config import NANO, SVD, SVD_XT, TINY, ModelConfig
from kinora.errors import CheckpointError, DeviceError, KinoraWarning, RequestError
from kinora.events import Done, Planned, Sampled
from kinora.models import VideoAutoencoder, VideoUNet
from kinora.request import Request
from kinora.runtime import PreparedUNet, decode, plan, streaming
from kinora.runtime.footprint import footprint
from kinora.runtime.memory import limited
from kinora.runtime.plan import WAYS, Job, ample, choose, predict, weights
from kinora.runtime.sizes import SIZES, counting_for, standing_for
from kinora.runtime.streaming import Pinned, passing
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


@pytest.mark.parametrize("tile", [1 << 18, 1 << 24])
def test_the_first_tiles_of_a_gpu_stand_for_all(tile: int) -> None:
    """What is counted of them is what is held with all of them."""
    with torch.device("meta"):
        vae, latents = VideoAutoencoder(NANO.vae), torch.empty(1, 4, 4, 16, 16)
        with standing_for("cuda"):
            held = footprint(lambda: decode(vae, latents, tile=tile))
        with counting_for("cuda"):
            counted = footprint(lambda: decode(vae, latents, tile=tile))
    assert counted == held


def test_a_gpu_with_room_for_them_is_given_larger_tiles() -> None:
    """A clip starts a hundred thousand kernels in small ones."""
    job = Job(TINY, torch.float16, torch.float16, 1, 25, 2048, 1536, device="cuda")
    shape, tiles = (job.frames, job.width, job.height), SIZES["cuda"].tiles
    works = [plan._decoding(TINY, torch.float16, "cuda", tile, *shape) for tile in tiles]
    for room in works:
        first = next(i for i, work in enumerate(works) if work <= room)
        assert plan._tiled(job, room) == (tiles[first], works[first])
    assert max(works) > works[-1], "larger ones are counted"
    assert plan._tiled(job, 1 << 60)[0] == tiles[0]
    assert plan._tiled(job, 0) == (tiles[-1], works[-1])


def test_docs_name_the_sizes_that_are_used() -> None:
    text = Path("docs/performance.md").read_text()
    for kind, told in (("cpu", "on a CPU"), ("cuda", "on a GPU")):
        piece, tiles = SIZES[kind]
        assert f"{piece >> 20} MiB {told}" in text
        sizes = " to ".join(str(size >> 20) for size in sorted({tiles[-1], tiles[0]}))
        assert f"tiles of {sizes} MiB {told}" in text


def test_svd_xt_makes_its_full_clips_below_6_gib() -> None:
    chosen = choose(FULL, 6 << 30, reread=True)
    assert not chosen.streaming
    assert chosen.peak <= 6 << 30


def test_the_hosts_memory_is_counted_for_what_is_streamed_from_it() -> None:
    job = Job(NANO, torch.float16, torch.float16, 1, 2, 64, 64, device="cuda")
    whole, *others = [predict(job, 0, **way) for way in WAYS]
    streams = [plan for plan in others if plan.streaming]
    assert whole.host == 0
    unet = PreparedUNet(VideoUNet(NANO.unet).to(torch.float16))
    blocks = [p.nbytes for block in unet.blocks() for p in passing(block)]
    (host,) = {plan.host for plan in streams}
    assert sum(blocks) <= host <= 2 * sum(blocks), "torch pins powers of two"
    budget = streams[0].peak
    assert choose(job, budget, reread=True, host=host).streaming
    assert predict(job._replace(device="cpu"), 0, turns=True, streaming=True).host == 0
    with pytest.raises(DeviceError, match=r"not enough memory in the host: .* are free"):
        choose(job, budget, reread=True, host=host - 1)


class Side:
    """A stream of a GPU that is not there."""

    def record_event(self) -> None:
        return None


def test_what_a_gpu_streams_is_pinned_once_for_all_clips(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = kinora.load(file, device="cpu")
    source, unet = pipe.networks.source, pipe.unet
    assert source is not None
    assert isinstance(unet, PreparedUNet)
    names = {p: f"unet.{name}" for name, p in pipe.networks.unet.named_parameters()}
    blocks = [passing(block) for block in unet.blocks()]
    copied: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "stream", lambda side: nullcontext())
    pinned = Pinned(lambda tensor: copied.append(tensor) or tensor.clone())
    with ThreadPoolExecutor(1) as thread:
        for _clip in range(2):
            stream = streaming._Stream(blocks, names, source, pinned, thread)
            stream.side = cast(Any, Side())
            for index, parameters in enumerate(blocks):
                tensors, _ = stream.fetch(index)
                for parameter, tensor in zip(parameters, tensors, strict=True):
                    assert torch.equal(tensor, source.read(names[parameter]))
    assert len(copied) == sum(map(len, blocks))
    assert pinned.held >= sum(p.nbytes for parameters in blocks for p in parameters)
    pinned.clear()
    assert pinned.held == 0


def test_blocks_that_are_streamed_are_prepared_as_whole_networks_are(file: Path) -> None:
    pipe = kinora.load(file, device="cpu", quantize="int8")
    asked = Request(image=PHOTO, seed=1, steps=2)
    expected = pipe.animate_batch([asked])[0]
    plain = kinora.load(file, device="cpu").animate_batch([asked])[0]
    assert not np.array_equal(plain.frames, expected.frames)
    pipe.residency.follow(turns=True, streaming=True)
    pipe.residency.arrange = lambda job, again=False: None
    assert np.array_equal(pipe.animate_batch([asked])[0].frames, expected.frames)


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


@pytest.mark.parametrize("size", [(128, 64), (256, 256), (512, 512)])
def test_nor_are_a_gpus_largest_tiles(size: tuple[int, int]) -> None:
    job = Job(TINY, torch.float32, torch.float32, 1, 5, *size, device="cuda")
    found = predict(job, 1 << 40)
    assert found.tile == SIZES["cuda"].tiles[0]
    assert not ample(job, replace(found, decoding=found.decoding - found.keep).peak)


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


class Overfull:
    """A layer for which memory runs out at some of its calls."""

    def __init__(self, layer: nn.Module, *calls: int) -> None:
        self.calls, self.count = calls, 0
        layer.register_forward_hook(self)

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count in self.calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")


class Kept:
    """A journal in memory."""

    def __init__(self) -> None:
        self.told: list[Condition] = []
        self.answered: list[torch.Tensor] = []

    def condition(self) -> Condition | None:
        return self.told[0] if self.told else None

    def keep_condition(self, condition: Condition) -> None:
        self.told.append(condition)

    def answers(self) -> list[torch.Tensor]:
        return list(self.answered)

    def keep_answer(self, answer: torch.Tensor) -> None:
        self.answered.append(answer)


@pytest.mark.parametrize("layer", ["vae.encoder.conv_in", "unet.conv_out", "vae.decoder.conv_in"])
@pytest.mark.parametrize("limit", [None, "40GiB"])
def test_where_memory_runs_out_the_clip_is_made_in_less(
    file: Path, layer: str, limit: str | None
) -> None:
    expected = kinora.load(file, device="cpu").animate(PHOTO, seed=1, steps=3)
    pipe = kinora.load(file, device="cpu", memory=limit)
    asked = Request(image=PHOTO, seed=1, steps=3)
    name, _, inside = layer.partition(".")
    running = pipe.unet.unet if name == "unet" else pipe.vae
    failing = Overfull(running.get_submodule(inside), 2 if name == "unet" else 1)
    with pytest.warns(KinoraWarning, match=r"out of memory \(CUDA out of memory.*GiB\.\): begin"):
        events = list(pipe.stream(asked))
    planned = [e.memory for e in events if isinstance(e, Planned)]
    assert planned[-1].turns
    assert len(planned) == 1 + (limit is not None)
    assert isinstance(events[-1], Done)
    assert np.abs(events[-1].clips[0].frames.astype(int) - expected.frames).max() <= 1
    count = failing.count
    pipe.animate(PHOTO, seed=1, steps=3)  # in the same way at once, without a warning
    assert failing.count > count


def test_memory_may_run_out_once(file: Path) -> None:
    pipe = kinora.load(file, device="cpu")
    Overfull(pipe.unet.unet.conv_out, 1, 2)
    with (
        pytest.warns(KinoraWarning, match="beginning again"),
        pytest.raises(torch.OutOfMemoryError),
    ):
        pipe.animate(PHOTO, seed=1, steps=3)


def test_where_no_way_takes_less_it_says_so() -> None:
    job = Job(NANO, torch.float32, torch.float32, 1, 3, 64, 64)
    last = predict(job, 1 << 40, apart=True)
    with pytest.raises(DeviceError, match=r"out of memory: 3 frames of 64x64 .* lower --size"):
        choose(job, 1 << 40, reread=False, after=last)


def test_a_clip_that_is_begun_again_goes_on_from_its_journal(file: Path) -> None:
    expected = kinora.load(file, device="cpu").animate(PHOTO, seed=1, steps=3)
    pipe = kinora.load(file, device="cpu")
    failing = Overfull(pipe.unet.unet.conv_out, 3)
    with pytest.warns(KinoraWarning, match="beginning again"):
        *_, done = pipe.stream(Request(image=PHOTO, seed=1, steps=3), Kept())
    assert isinstance(done, Done)
    assert np.abs(done.clips[0].frames.astype(int) - expected.frames).max() <= 1
    assert failing.count == 3 + 1, "steps that were done are not computed anew"


def test_a_limit_is_torchs_limit_while_networks_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the program's own otherwise; a stricter one of its own stays."""
    share, gpu = {0: 0.75}, torch.device("cuda")
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "mem_get_info", lambda device: (0, 1000))
    read, write = lambda device: share[device.index], share.__setitem__
    monkeypatch.setattr(cuda, "get_per_process_memory_fraction", read)
    monkeypatch.setattr(
        cuda, "set_per_process_memory_fraction", lambda to, device: write(device.index, to)
    )
    with limited(gpu, 500):
        assert share == {0: 0.5}
        with limited(torch.device("cuda:0"), 600):
            assert share == {0: 0.6}
        with limited(gpu, None):
            assert share == {0: 0.5}
    assert share == {0: 0.75}
    with limited(gpu, 900):
        assert share == {0: 0.75}
    with pytest.raises(KeyError), limited(gpu, 500):
        raise KeyError
    assert share == {0: 0.75}


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
