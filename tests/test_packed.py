"""Weights rearranged or quantised for kernels: what they give, and what is left of them."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kinora
from kinora.compat.diffusers import StableVideoDiffusionPipeline
from kinora.config import NANO, SVD_XT, TINY
from kinora.errors import DeviceError
from kinora.events import Sampled
from kinora.models import VideoUNet
from kinora.request import Request
from kinora.runtime import PreparedUNet, packed, quantised, quantiser
from kinora.runtime.packed import Packed, bytes_of, pack_when_used, unpack
from kinora.runtime.plan import Job, choose, predict, weights
from kinora.runtime.quantised import is_quantised
from kinora.types import Condition
from kinora.weights import load_networks, save_networks
from kinora.weights.load import put
from kinora.weights.names import living_shapes
from tests.checkpoints import SMALL, write_own

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
CPU = torch.device("cpu")

needs_onednn = pytest.mark.skipif(not packed._possible(), reason="needs oneDNN on x86")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own(tmp_path_factory.mktemp("own") / "small.safetensors", SMALL)


def inputs(frames: int, sides: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    config = SMALL.unet
    condition = Condition(
        torch.randn(2, 1, 4, *sides),
        torch.randn(2, 1, config.context_dim),
        torch.tensor([6.0, 127.0, 0.02]).repeat(2, 1),
    )
    return torch.randn(1, frames, 4, *sides), torch.zeros(1), condition


@needs_onednn
def test_packed_weights_give_the_same_at_every_size_and_can_be_had_back(file: Path) -> None:
    networks = load_networks(file, device=CPU, dtype=torch.float32)
    plain, before = networks.unet, {k: v.clone() for k, v in networks.unet.state_dict().items()}
    running, seen = PreparedUNet(plain), list[nn.Parameter]()
    expected = [(given, running(*given)) for given in (inputs(3, (8, 16)), inputs(4, (16, 8)))]
    hooks = pack_when_used(running, seen.append)
    for given, result in expected:
        for _ in range(2):
            torch.testing.assert_close(running(*given), result, atol=1e-5, rtol=1e-5)
    those = [p for p in plain.parameters() if isinstance(p, Packed)]
    assert len(those) > 50
    assert {id(p) for p in those} == {id(p) for p in seen}

    after = plain.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "as seen by all else"
    for hook in hooks:
        hook.remove()
    for parameter in those:
        unpack(parameter)
    assert not any(isinstance(p, Packed) for p in plain.parameters())
    torch.testing.assert_close(running(*expected[0][0]), expected[0][1], atol=1e-5, rtol=1e-5)


@needs_onednn
def test_a_pipeline_packs_and_what_it_hands_over_is_plain(file: Path, tmp_path: Path) -> None:
    pipeline = kinora.load(file, device="cpu")
    total = pipeline.residency.total
    pipeline.animate(PHOTO, steps=1, seed=0)
    unet = pipeline.networks.unet
    assert any(isinstance(p, Packed) for p in unet.parameters())
    assert pipeline.residency.held == pipeline.residency.total == total

    parts = {name: getattr(pipeline.networks, name) for name in ("unet", "vae", "image_encoder")}
    saved = save_networks(tmp_path / "saved.safetensors", pipeline.config, parts)
    again = load_networks(saved, device=CPU, dtype=torch.float32).unet.state_dict()
    stored = load_networks(file, device=CPU, dtype=torch.float32).unet.state_dict()
    assert all(torch.equal(again[name], stored[name]) for name in stored)

    pipeline.residency.settle()
    assert not any(isinstance(p, Packed) for p in unet.parameters())
    pipeline.animate(PHOTO, steps=1, seed=0)
    assert not any(isinstance(p, Packed) for p in unet.parameters()), "they are someone else's now"


def packed_layers(pipeline: kinora.Pipeline) -> int:
    return sum(isinstance(p, Packed) for p in pipeline.networks.unet.parameters())


@needs_onednn
def test_moving_packed_networks_to_where_they_are_changes_nothing(file: Path) -> None:
    pipe = StableVideoDiffusionPipeline(kinora.load(file, device="cpu"))
    pipeline = pipe.pipeline
    before = pipeline.animate(PHOTO, steps=1, seed=0).frames
    count = packed_layers(pipeline)
    assert count > 50
    weights = [p.data_ptr() for p in pipeline.networks.vae.parameters()]
    pipe.to("cpu").to(torch.float32).to("cpu", torch.float32)
    assert packed_layers(pipeline) == count
    assert weights == [p.data_ptr() for p in pipeline.networks.vae.parameters()]
    assert np.array_equal(before, pipeline.animate(PHOTO, steps=1, seed=0).frames)


@needs_onednn
@pytest.mark.parametrize("memory", [None, "450MiB"])
def test_networks_that_were_moved_and_came_back_are_packed_and_the_same(
    file: Path, memory: str | None
) -> None:
    pipe = StableVideoDiffusionPipeline(kinora.load(file, device="cpu", memory=memory))
    pipeline = pipe.pipeline
    before = pipeline.animate(PHOTO, steps=1, seed=0).frames
    pipe.to(torch.bfloat16)
    half = pipeline.animate(PHOTO, steps=1, seed=0).frames
    assert pipe.dtype == torch.bfloat16
    assert pipeline.vae.quant_conv.weight.dtype == torch.float32
    assert packed_layers(pipeline) == 0
    assert not np.array_equal(before, half)
    direct = kinora.load(file, device="cpu", dtype="bfloat16").animate(PHOTO, steps=1, seed=0)
    assert np.array_equal(half, direct.frames), "as if it had been loaded so"
    pipe.to(torch.float32)
    assert np.array_equal(before, pipeline.animate(PHOTO, steps=1, seed=0).frames), "nothing lost"
    assert memory or packed_layers(pipeline) > 50


def test_networks_at_work_are_not_moved(file: Path) -> None:
    pipeline = kinora.load(file, device="cpu")
    for event in pipeline.stream(Request(image=PHOTO, steps=2)):
        if isinstance(event, Sampled):
            pipeline.move(torch.device("cpu"), torch.float32)
            with pytest.raises(DeviceError, match="at work on a clip"):
                pipeline.move(dtype=torch.float64)


@needs_onednn
def test_packed_weights_are_written_to_by_nobody(file: Path) -> None:
    pipeline = kinora.load(file, device="cpu")
    pipeline.animate(PHOTO, steps=1, seed=0)
    weight = next(p for p in pipeline.networks.unet.parameters() if isinstance(p, Packed))
    with pytest.raises(RuntimeError, match="packed to run"):
        weight.data.mul_(2)
    copied = copy.deepcopy(pipeline.networks.unet).state_dict()
    stored = load_networks(file, device=CPU, dtype=torch.float32).unet.state_dict()
    assert all(torch.equal(copied[name], stored[name]) for name in stored)


@needs_onednn
def test_a_small_clip_after_a_large_one_is_as_quick_as_ever() -> None:
    """Packed for another size, a convolution can be many times as slow."""
    networks = load_networks("nano", device=CPU, dtype=torch.float32)
    running, config = PreparedUNet(networks.unet), networks.config.unet
    pack_when_used(running, lambda parameter: None)
    small, large = (
        (
            torch.randn(1, 2, config.latent_channels, *sides),
            torch.zeros(1),
            Condition(
                torch.randn(1, 1, config.latent_channels, *sides),
                torch.randn(1, 1, config.context_dim),
                torch.ones(1, 3),
            ),
        )
        for sides in ((8, 8), (32, 32))
    )
    expected = running(*small)
    conv = networks.unet.middle.resnets[0].space.conv1
    assert conv.weight.kernel.sides == (2, 2)
    running(*large)
    assert conv.weight.kernel.sides == (8, 8)
    torch.testing.assert_close(running(*small), expected, atol=1e-5, rtol=1e-5)
    assert conv.weight.kernel.sides == (2, 2)


def test_half_precision_is_not_packed(file: Path) -> None:
    pipeline = kinora.load(file, device="cpu", dtype="bfloat16")
    pipeline.animate(PHOTO, steps=1, seed=0)
    assert not any(isinstance(p, Packed) for p in pipeline.networks.unet.parameters())


def test_int8_products_are_near_the_right_ones() -> None:
    layer, x = nn.Linear(64, 128).requires_grad_(False), torch.randn(2, 50, 64)
    expected = layer(x)
    name = "unet.down.0.transformers.0.space.attention.to_q.weight"
    weight = quantiser("int8", CPU, torch.float32)(name, layer.weight.detach())
    assert bytes_of(weight) == 128 * (64 + 4)
    for _ in range(2):
        found = F.linear(x, weight, layer.bias)
        error = (found - expected).square().mean().sqrt() / expected.std()
        assert 1e-4 < error < 0.02, "weights of one size, which overflow where bits are too many"
    rows = layer.weight.abs().amax(dim=1, keepdim=True)
    assert ((weight + 0) - layer.weight).abs().le(rows / 63 / 2 * 1.001).all(), "half a unit"


@pytest.mark.filterwarnings("ignore")  # torchao's own
def test_torchaos_weights_are_parameters_like_others() -> None:
    """As on a GPU, but computed slowly."""
    layer, x = nn.Linear(64, 128).requires_grad_(False), torch.randn(2, 50, 64)
    expected, stored = layer(x), layer.weight.clone()
    made = quantised._by_torchao(quantised._torchao_config("int8"), stored)
    put(layer.weight, made)
    assert 128 * 64 < bytes_of(layer.weight) <= 128 * (64 + 5)
    error = (layer(x) - expected).square().mean().sqrt() / expected.std()
    assert 1e-4 < error < 0.02
    put(layer.weight, torch.empty(128, 64, device="meta"))
    assert bytes_of(layer.weight) == 0
    put(layer.weight, stored)
    assert torch.equal(layer(x), expected)


def test_what_is_computed_for_every_token_is_quantised_and_nothing_else() -> None:
    chosen = {n for n, shape in living_shapes(SVD_XT).items() if is_quantised(n, shape)}
    assert {n.split(".")[-2] for n in chosen} == {
        "to_q", "to_k", "to_v", "to_out", "proj_in", "proj_out",
    }  # fmt: skip
    modules = dict(_on_meta(SVD_XT).named_modules())
    transformers = [n for n in modules if n.endswith("proj_out") and "feed_forward" not in n]
    assert len(chosen) == len(transformers) * (2 + 2 * 4 + 3 * 2)
    assert not any("context" in n or "embedding" in n or "vae" in n for n in chosen)


def _on_meta(config: kinora.ModelConfig) -> VideoUNet:
    with torch.device("meta"):
        return VideoUNet(config.unet)


def test_a_quantised_clip_is_near_the_exact_one_and_says_so() -> None:
    photo = Path("examples/rocket.jpg")
    asked = {"steps": 3, "seed": 0, "frames": 4}
    exact = kinora.load("nano", device="cpu").animate(photo, **asked)
    pipeline = kinora.load("nano", device="cpu", quantize="int8")
    clip = pipeline.animate(photo, **asked)
    error = np.mean((clip.frames.astype(float) - exact.frames) ** 2)
    assert 0 < error < 255**2 / 10**4.5, "at least 45 dB"
    assert clip.recipe["quantize"] == "int8"
    assert "quantize" not in exact.recipe


@pytest.mark.parametrize("turns", [False, True])
def test_quantised_weights_are_counted_as_what_they_take(file: Path, turns: bool) -> None:
    pipeline = kinora.load(file, device="cpu", quantize="int8")
    job = Job(pipeline.config, torch.float32, torch.float32, 1, 3, 64, 64, quantised=True)
    counted = sum(weights(job, name) for name in ("unet", "vae", "image_encoder"))
    assert pipeline.residency.held == counted
    plain = weights(job._replace(quantised=False), "unet")
    assert weights(job, "unet") < plain
    exact = predict(job._replace(quantised=False), 1 << 40, turns=turns)
    assert predict(job, 1 << 40, turns=turns).sampling < exact.sampling


def test_quantised_blocks_are_not_streamed() -> None:
    job = Job(NANO, torch.float32, torch.float32, 1, 8, 128, 128, quantised=True)
    tight = predict(job, 0, turns=True, apart=True).peak
    assert not choose(job, tight, reread=True).streaming
    with pytest.raises(DeviceError, match="not enough memory"):
        choose(job, tight - 1, reread=True)


@pytest.mark.parametrize(
    ("kind", "device", "dtype", "said"),
    [
        ("int4", "cpu", torch.float32, "quantize 'int4': must be one of int8, float8"),
        ("float8", "cpu", torch.float32, "a CPU multiplies int8 only; use int8"),
        ("int8", "cpu", torch.bfloat16, "on a CPU only together with dtype float32"),
        ("int8", "mps", torch.float32, "not possible on mps"),
        ("float8", "cuda", torch.float16, "only together with dtype bfloat16"),
        ("int8", "cuda", torch.float16, "on a GPU only together with compile"),
    ],
)
def test_what_cannot_be_quantised_is_told(
    kind: str, device: str, dtype: torch.dtype, said: str
) -> None:
    with pytest.raises(DeviceError, match=said):
        quantiser(kind, torch.device(device), dtype)


def test_int8_is_not_compiled_on_a_cpu(file: Path) -> None:
    with pytest.raises(DeviceError, match="leave one out"):
        kinora.load(file, device="cpu", quantize="int8", compiled=True)


def test_weights_too_small_for_the_kernels_stay_as_they_are() -> None:
    name = "unet.down.0.transformers.0.proj_in.weight"
    assert is_quantised(name, (32, 32))
    assert not is_quantised(name, (32, 24))
    assert not is_quantised(name, (32, 32, 1, 1))
    assert TINY.unet.channels[0] % 16 == 0
