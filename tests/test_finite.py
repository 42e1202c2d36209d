"""NaN or infinity from a network is an error that names the network, never a black clip."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from kinora.compat.diffsynth import SVDVideoPipeline
from kinora.compat.diffusers import StableVideoDiffusionPipeline
from kinora.config import TINY
from kinora.errors import NotFiniteError
from kinora.pipeline import Pipeline
from kinora.request import SAMPLERS, Request
from kinora.weights import load_networks, save_networks
from tests.cli import Kinora, folder, kinora, model, write_photo
from tests.tiny import tiny_pipeline

__all__ = ["folder", "kinora", "model"]

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
PHOTO = Image.fromarray(PIXELS)
STEPS = 3

Call = Callable[[Pipeline], object]


def kinora_call(pipe: Pipeline, **values: Any) -> object:  # noqa: ANN401
    return pipe.animate(PHOTO, **({"seed": 0, "steps": STEPS} | values))


def diffusers_call(pipe: Pipeline) -> object:
    call = StableVideoDiffusionPipeline(pipe)
    return call(PHOTO, height=32, width=64, num_frames=4, num_inference_steps=STEPS)


def diffsynth_call(pipe: Pipeline) -> object:
    call = SVDVideoPipeline(pipe)
    return call(PHOTO, height=32, width=64, num_frames=4, num_inference_steps=STEPS, seed=0)


def diffsynth_video_call(pipe: Pipeline) -> object:
    return SVDVideoPipeline(pipe)(
        PHOTO, input_video=[PHOTO] * 4, denoising_strength=0.5, height=32, width=64,
        num_frames=4, num_inference_steps=STEPS, seed=0,
    )  # fmt: skip


CALLS = [kinora_call, diffusers_call, diffsynth_call]


@contextmanager
def broken(module: nn.Module, value: float, call: int = 1) -> Iterator[None]:
    """One value that a module gives is replaced, from its call of this number on."""
    calls = 0

    def replace_one(_: nn.Module, given: object, made: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls < call:
            return made
        made = made.clone()
        made[(0,) * made.ndim] = value
        return made

    handle = module.register_forward_hook(replace_one)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("call", CALLS)
def test_a_unet_that_gives_no_number_is_named_with_its_step(
    pipe: Pipeline, call: Call, value: float
) -> None:
    with broken(pipe.unet, value, call=2), pytest.raises(NotFiniteError) as caught:
        call(pipe)
    assert f"the UNet's output at step 2 of {STEPS} holds" in str(caught.value)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_so_it_is_with_every_sampler(pipe: Pipeline, sampler: str) -> None:
    with (
        broken(pipe.unet, torch.nan),
        pytest.raises(NotFiniteError, match=r"UNet's .* step 1 of 3"),
    ):
        kinora_call(pipe, sampler=sampler)


@pytest.mark.parametrize("call", CALLS)
def test_a_decoder_that_gives_no_number_is_named(pipe: Pipeline, call: Call) -> None:
    with (
        broken(pipe.vae.decoder.conv_out, torch.nan),
        pytest.raises(NotFiniteError, match="the decoder's output holds NaN"),
    ):
        call(pipe)


@pytest.mark.parametrize("call", [*CALLS, diffsynth_video_call])
def test_an_encoder_that_gives_no_number_is_named(pipe: Pipeline, call: Call) -> None:
    assert pipe.vae.quant_conv is not None
    for module, name in ((pipe.vae.quant_conv, "VAE"), (pipe.image_encoder.projection, "image")):
        with (
            broken(module, torch.inf),
            pytest.raises(NotFiniteError, match=f"the {name} encoder's output holds infinity"),
        ):
            call(pipe)


def test_a_preview_is_never_refused(pipe: Pipeline) -> None:
    with broken(pipe.vae.decoder.conv_out, torch.nan):
        assert pipe.preview(torch.zeros(1, 2, 4, 8, 16)).shape == (1, 32, 64, 3)


@pytest.mark.parametrize(
    ("option", "wider"), [("--dtype", torch.bfloat16), ("--vae-dtype", torch.float32)]
)
def test_what_a_narrow_number_format_cannot_hold_is_possible_in_the_one_suggested(
    option: str, wider: torch.dtype
) -> None:
    """Overflow as it happens: an output beyond 65504."""
    narrow, wide = overflowing(option, torch.float16), overflowing(option, wider)
    name = str(wider).removeprefix("torch.")
    with pytest.raises(NotFiniteError, match=f"float16 may be too narrow.*{option} .*{name}"):
        narrow.animate(PHOTO, seed=0)
    wide.animate(PHOTO, seed=0)


def overflowing(option: str, dtype: torch.dtype) -> Pipeline:
    pipe = tiny_pipeline(dtype=dtype)
    last = pipe.unet if option == "--dtype" else pipe.vae.decoder
    last.conv_out.weight.mul_(1e4)
    last.conv_out.bias.fill_(6e4)
    return pipe


def test_the_command_line_says_what_to_try(kinora: Kinora, folder: Path, model: Path) -> None:
    networks = load_networks(model, device=torch.device("cpu"), dtype=torch.float32)
    networks.unet.conv_out.weight.fill_(6e4)
    parts = {name: getattr(networks, name) for name in ("unet", "vae", "image_encoder")}
    save_networks(folder / "model.safetensors", networks.config, parts)
    write_photo(folder / "photo.png")
    asked = ("animate", "photo.png", "--model", "model.safetensors", "--steps", 1)
    outcome = kinora(*asked, "--dtype", "float16")
    assert outcome.code == 1
    assert "Error: the UNet's output at step 1 of 1 holds " in outcome.err
    assert "try --dtype bfloat16 or float32" in outcome.err
    assert not list(folder.glob("*.mp4"))


def test_in_float32_the_weights_are_suspected(pipe: Pipeline) -> None:
    with (
        broken(pipe.unet, torch.nan),
        pytest.raises(NotFiniteError, match=r"float32 already.*verif"),
    ):
        pipe.animate(PHOTO)


def test_no_clip_is_left_behind(pipe: Pipeline, tmp_path: Path) -> None:
    with broken(pipe.unet, torch.nan), pytest.raises(NotFiniteError):
        pipe.animate_batch([replace(Request(image=PHOTO), frames=TINY.frames)])[0].save(
            tmp_path / "clip.mp4"
        )
    assert not list(tmp_path.iterdir())
