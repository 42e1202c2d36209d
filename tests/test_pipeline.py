"""Laws of the pipeline, on a tiny random model."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kinora
from kinora import photo_cache
from kinora.config import TINY
from kinora.device import pick_device, pick_dtype
from kinora.errors import CheckpointError, DeviceError, KinoraWarning, RequestError
from kinora.events import Decoded, Done, Encoded, Sampled
from kinora.media import photo
from kinora.noise import Draws
from kinora.photo_cache import PhotoCache
from kinora.pipeline import Pipeline
from kinora.pixels import quantise
from kinora.request import QUALITIES, SAMPLERS, SCHEDULES, Request
from kinora.types import Condition
from tests.checkpoints import SMALL, write_own
from tests.tiny import tiny_pipeline

WIDE = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
OTHER = np.random.default_rng(1).integers(0, 256, (50, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


def near(a: np.ndarray, b: np.ndarray) -> bool:
    return int(np.abs(a.astype(int) - b.astype(int)).max()) <= 1


def test_a_seed_means_the_same_whatever_else_is_in_the_batch(pipe: Pipeline) -> None:
    size = (64, 32)
    requests = [
        Request(image=WIDE, seed=1, size=size, motion=20, fps=5, guidance=(1.0, 2.0)),
        Request(image=OTHER, seed=2, size=size, motion=200, fps=12, noise_aug=0.3),
        Request(image=WIDE, seed=1, size=size, motion=20, fps=5, guidance=(1.0, 2.0)),
    ]
    together = pipe.animate_batch(requests)
    for request, clip in zip(requests, together, strict=True):
        assert near(pipe.animate_batch([request])[0].frames, clip.frames)
    assert not near(together[0].frames, together[1].frames)


def test_the_same_seed_gives_the_same_clip(pipe: Pipeline) -> None:
    first, again, other = (pipe.animate(WIDE, seed=seed).frames for seed in (5, 5, 6))
    assert (first == again).all()
    assert not near(first, other)


class Counted:
    """How often photos are read from files, fitted and encoded."""

    def __init__(self, pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: Counter[str] = Counter()
        for module, name in ((photo, "_read"), (photo_cache, "fit"), (pipe.vae, "encode")):
            monkeypatch.setattr(module, name, self.counting(name, getattr(module, name)))
        embed = self.counting("embed", pipe.image_encoder.forward)
        monkeypatch.setattr(pipe.image_encoder, "forward", embed)

    def counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:  # noqa: ANN401
            self.calls[name] += 1
            return function(*arguments)

        return counted

    def since(self) -> dict[str, int]:
        """The calls since this was last asked."""
        calls, self.calls = dict(self.calls), Counter()
        return calls


@pytest.mark.parametrize(
    ("noise_aug", "encoded"), [(0.0, 1), (0.3, 3)], ids=["no noise", "each seed its own noise"]
)
def test_several_clips_of_one_photo_read_fit_and_encode_it_once(
    pipe: Pipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    noise_aug: float,
    encoded: int,
) -> None:
    Image.fromarray(WIDE).save(tmp_path / "photo.png")
    requests = [
        Request(image=tmp_path / "photo.png", seed=seed, noise_aug=noise_aug) for seed in (1, 2, 3)
    ]
    alone = [pipe.animate_batch([request])[0].frames for request in requests]
    counted = Counted(pipe, monkeypatch)
    together = pipe.animate_batch(requests)
    once = {"_read": 1, "fit": 1, "embed": 1}
    assert counted.since() == {**once, "encode": encoded}
    assert all(near(a, clip.frames) for a, clip in zip(alone, together, strict=True))

    cache = PhotoCache()  # one after the other, as the command line makes them
    for expected, request in zip(alone, requests, strict=True):
        *_, done = pipe.stream(request, cache=cache)
        assert isinstance(done, Done)
        assert (done.clips[0].frames == expected).all()
    assert counted.since() == {**once, "encode": encoded}

    other = Request(image=OTHER, seed=1, noise_aug=noise_aug, size=(64, 32))
    pipe.animate_batch([replace(requests[0], size=(64, 32)), other])
    assert counted.since() == {"_read": 1, "fit": 2, "embed": 2, "encode": 2}


def test_noise_is_drawn_pixels_first_in_fp32_on_the_cpu() -> None:
    plan = Request(image=WIDE, seed=3).resolved(TINY, (64, 32))
    draws = Draws(plan, TINY)
    pixels, latents = draws.pixels(), draws.latents()
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(pixels, torch.randn(3, 32, 64, generator=generator))
    assert torch.equal(latents, torch.randn(4, 4, 8, 16, generator=generator))


def test_a_stream_tells_every_step(pipe: Pipeline) -> None:
    events = list(pipe.stream(Request(image=WIDE, steps=3, frames=4, decode_chunk=3, seed=4)))
    kinds = [Encoded, *[Sampled] * 3, *[Decoded] * 2, Done]
    assert [type(event) for event in events] == kinds
    steps = [event for event in events if isinstance(event, Sampled)]
    assert [(step.step, step.steps) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert all(step.denoised.shape == (1, 4, 4, 8, 16) for step in steps)
    assert [event.done for event in events if isinstance(event, Decoded)] == [3, 4]
    first, last = events[0], events[-1]
    assert isinstance(first, Encoded)
    assert isinstance(last, Done)
    assert first.plans[0].seed == last.clips[0].recipe["request"]["seed"] == 4
    assert pipe.preview(steps[-1].denoised).shape == (1, 32, 64, 3)


def test_closing_a_stream_cancels_at_once(pipe: Pipeline) -> None:
    calls: list[int] = []
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    stream = pipe.stream(Request(image=WIDE, steps=9))
    for event in stream:
        if isinstance(event, Sampled) and event.step == 2:
            stream.close()
    handle.remove()
    assert len(calls) == 2


def test_a_stream_leaves_gradients_as_they_were(pipe: Pipeline) -> None:
    for _ in pipe.stream(Request(image=WIDE)):
        assert torch.is_grad_enabled()


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


AMBIENT: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "default dtype": lambda: default_dtype(torch.float64),
    "default device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("state", AMBIENT)
@pytest.mark.parametrize("memory", [None, "450MiB"])
def test_what_a_program_sets_in_torch_around_a_call_changes_nothing(
    tmp_path: Path, state: str, memory: str | None
) -> None:
    file = write_own(tmp_path / "small.safetensors", SMALL)
    expected = kinora.load(file, device="cpu").animate(WIDE, seed=1, steps=2).frames
    with AMBIENT[state]():
        pipe = kinora.load(file, device="cpu", memory=memory)
        within = pipe.animate(WIDE, seed=1, steps=2).frames
    assert np.array_equal(within, expected)
    assert np.array_equal(pipe.animate(WIDE, seed=1, steps=2).frames, expected), "nor what follows"


def test_a_program_s_autocast_stays_its_own_between_steps(pipe: Pipeline) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        for _ in pipe.stream(Request(image=WIDE, seed=1)):
            assert torch.is_autocast_enabled("cpu")
    for _ in pipe.stream(Request(image=WIDE, seed=1)):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_close_and_samples_in_fp32(dtype: torch.dtype) -> None:
    exact, half = tiny_pipeline(), tiny_pipeline(dtype=dtype)
    request = Request(image=WIDE, seed=0)
    for event in half.stream(request):
        if isinstance(event, Sampled):
            assert event.denoised.dtype == torch.float32
    error = half.animate(WIDE, seed=0).frames.astype(float) - exact.animate(WIDE, seed=0).frames
    assert half.dtype == dtype
    assert np.abs(error).mean() < 4


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_never_cross_clips(pipe: Pipeline, chunk: int) -> None:
    latents = torch.randn(2, 4, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    both = torch.cat(list(pipe.decode(latents, chunk)), dim=1)
    for clip, frames in zip(latents, both, strict=True):
        alone = torch.cat(list(pipe.decode(clip[None], chunk)), dim=1)[0]
        torch.testing.assert_close(alone, frames, atol=1e-5, rtol=1e-5)


def test_frames_are_rounded_not_cut() -> None:
    values = torch.tensor([-2.0, -1.0, 0.0, 0.9999, 1.0, 2.0])
    frames = values[None, :, None, None, None].expand(1, 6, 3, 1, 1)
    assert quantise(frames)[0, :, 0, 0, 0].tolist() == [0, 0, 128, 255, 255, 255]


@pytest.mark.parametrize("frames", [1, 2, 6])
def test_other_lengths_work(pipe: Pipeline, frames: int) -> None:
    if frames > pipe.config.frames:
        with pytest.warns(KinoraWarning, match="trained on 4"):
            clip = pipe.animate(WIDE, frames=frames)
    else:
        clip = pipe.animate(WIDE, frames=frames)
    assert clip.frames.shape == (frames, 32, 64, 3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_gives_a_seed_one_clip_whatever_else_is_made(
    pipe: Pipeline, sampler: str
) -> None:
    requests = [Request(image=WIDE, seed=seed, sampler=sampler) for seed in (3, 4)]
    alone = pipe.animate_batch(requests[1:])[0]
    assert alone.recipe["request"]["sampler"] == sampler
    assert near(alone.frames, pipe.animate_batch(requests)[1].frames)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("wish", [{}, {"inner_every": 2, "guidance_every": 3}], ids=["", "reused"])
def test_every_quality_gives_a_seed_one_clip_whatever_else_is_made(
    pipe: Pipeline, quality: str, wish: dict[str, Any]
) -> None:
    requests = [
        Request(image=WIDE, seed=seed, quality=quality, guidance=(1.0, float(seed)), **wish)
        for seed in (3, 4)
    ]
    alone = pipe.animate_batch(requests[1:])[0]
    assert alone.recipe["request"]["quality"] == quality
    assert near(alone.frames, pipe.animate_batch(requests)[1].frames)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_runs(pipe: Pipeline, schedule: str) -> None:
    assert pipe.animate(WIDE, schedule=schedule).recipe["request"]["schedule"] == schedule


def test_the_recipe_repeats_the_clip(pipe: Pipeline, tmp_path: Path) -> None:
    clip = pipe.animate(WIDE, frames=3, motion=9)
    saved = kinora.Clip.open(clip.save(tmp_path / "clip"))
    wishes: dict[str, Any] = {**saved.recipe["request"], "image": WIDE}
    for pair in ("size", "guidance"):  # JSON knows no tuples
        wishes[pair] = tuple(wishes[pair])
    assert saved.recipe["fingerprint"] == pipe.fingerprint
    assert (pipe.animate_batch([Request(**wishes)])[0].frames == saved.frames).all()


def test_what_cannot_be_done_is_said_before_work_begins(pipe: Pipeline) -> None:
    with pytest.raises(RequestError, match="multiples of 8"):
        next(pipe.stream(Request(image=WIDE, size=(100, 100))))
    with pytest.raises(CheckpointError):
        kinora.load("/nowhere/at/all.safetensors")


def test_devices_and_precisions_by_name() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_dtype(None, torch.device("cpu")) == torch.float32
    for name in ("gpu", "cuda:99", "xpu"):
        with pytest.raises(DeviceError, match=name):
            pick_device(name)
    with pytest.raises(DeviceError, match="fp64"):
        pick_dtype("fp64", torch.device("cpu"))


class Kept:
    """A journal in memory."""

    def __init__(self) -> None:
        self.told: Condition | None = None
        self.said: list[torch.Tensor] = []

    def condition(self) -> Condition | None:
        return self.told

    def keep_condition(self, condition: Condition) -> None:
        self.told = condition

    def answers(self) -> list[torch.Tensor]:
        return list(self.said)

    def keep_answer(self, answer: torch.Tensor) -> None:
        self.said.append(answer.clone())


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("choice", [{}, {"guidance_every": 2}, {"inner_every": 2}])
def test_a_clip_that_was_interrupted_comes_out_the_same(
    pipe: Pipeline, sampler: str, choice: dict[str, int]
) -> None:
    asked = Request(image=WIDE, seed=8, steps=6, sampler=sampler, **choice)
    whole = pipe.animate_batch([asked])[0]
    journal = Kept()
    for event in pipe.stream(asked, journal):
        if isinstance(event, Sampled) and event.step == 3:
            break
    calls: list[int] = []
    handles = [n.register_forward_hook(lambda *_: calls.append(1)) for n in (pipe.unet, pipe.vae)]
    *_, done = pipe.stream(asked, journal)
    for handle in handles:
        handle.remove()
    assert isinstance(done, Done)
    assert (done.clips[0].frames == whole.frames).all()
    if "inner_every" not in choice:
        again = len(calls)
        assert 0 < again <= 2 * 3  # the other three steps, Heun's of two calls each


def test_an_interrupted_clip_goes_on_in_less_memory(pipe: Pipeline) -> None:
    """Halves of guidance may be computed together at first and one by one later."""
    asked = Request(image=WIDE, seed=8, steps=4)
    whole = pipe.animate_batch([asked])[0]
    plan = asked.resolved(pipe.config, (WIDE.shape[1], WIDE.shape[0]))
    journal = Kept()
    list(pipe.stream(asked, journal))
    del journal.said[3:]  # in the midst of a call
    assert journal.told is not None
    draws = Draws(plan, pipe.config)
    draws.pixels()
    *_, last = pipe.sample(
        journal.told,
        draws.latents()[None],
        steps=4,
        guidance=torch.linspace(*plan.guidance, plan.frames)[None],
        apart=True,
        journal=journal,
    )
    assert len(journal.said) == 2 * 4
    assert near(quantise(torch.cat(list(pipe.decode(last.x)), dim=1))[0], whole.frames)
