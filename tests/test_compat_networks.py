"""Programs reach into a pipeline of diffusers' or DiffSynth's manner: its networks, weights and
methods. What they do there is done, whatever memory there is, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import kinora
from kinora import weights as kinora_weights
from kinora.compat.diffsynth import SVDVideoPipeline
from kinora.compat.diffusers import StableVideoDiffusionPipeline
from kinora.compat.diffusers.surface import METHODS, REFUSED
from kinora.errors import CheckpointError, RequestError
from kinora.models.image_encoder import preprocess
from kinora.runtime import plan
from kinora.runtime.plan import WAYS
from kinora.weights import to_diffusers
from tests import parity

pytestmark = pytest.mark.filterwarnings(parity.SCHEDULER_WARNING)

Pipe = StableVideoDiffusionPipeline
SMALL: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 3, "num_inference_steps": 2}
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parity.write_folder(tmp_path_factory.mktemp("networks") / "model", parity.SMALL)


@pytest.fixture
def pipe(folder: Path) -> Pipe:
    return Pipe.from_pretrained(folder)


def made(pipe: Any, **values: Any) -> np.ndarray:  # noqa: ANN401
    asked = {"generator": seeded(0), "output_type": "np"} | SMALL | values
    return pipe(PHOTO, **asked).frames


def by_hand(pipe: Pipe) -> list[Tensor]:
    """One call of each network, as programs make them."""
    sample = torch.randn((2, 3, 8, 8, 12), generator=seeded(1))
    sample[:, :, 4:] = sample[:, :1, 4:]
    context = torch.randn((2, 1, 32), generator=seeded(2))
    ids = torch.tensor([[6.0, 127.0, 0.02]]).repeat(2, 1)
    pixels = preprocess(torch.randn((1, 3, 40, 40), generator=seeded(3)), 224)
    images = torch.randn((2, 3, 32, 48), generator=seeded(4))
    return [
        pipe.unet(sample, torch.tensor(0.7), encoder_hidden_states=context, added_time_ids=ids)[0],
        pipe.vae.decode(sample[0, :, :4], num_frames=3).sample,
        pipe.vae.encode(images).latent_dist.mode(),
        pipe.image_encoder(pixels).image_embeds,
    ]


@pytest.mark.parametrize("way", WAYS[1:], ids=str)
def test_both_pipelines_and_their_networks_work_under_every_memory_plan(
    folder: Path, way: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = kinora.load(folder, device="cpu")
    asked = {**SMALL, "seed": 0, "denoising_strength": 0.5, "mask_frame_ids": [0]}
    video = {"input_video": [PHOTO] * 3, "mask_frames": [PHOTO]}
    expected = made(Pipe(free))
    frames = SVDVideoPipeline(free)(PHOTO, **asked, **video)
    answers = by_hand(Pipe(free))

    tight = kinora.load(folder, device="cpu", memory="40GiB")
    monkeypatch.setattr(plan, "WAYS", (way,))
    pipe, within = Pipe(tight), list[list[Tensor]]()

    def callback(pipe: Pipe, step: int, *_: Any) -> dict[str, Tensor]:  # noqa: ANN401
        if step == 0:
            within.append(by_hand(pipe))
        return {}

    assert np.abs(made(pipe, callback_on_step_end=callback) - expected).max() < 1 / 255
    assert tight.residency.held == 0, "each was there while it worked"
    for found in (*within, by_hand(pipe)):
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, answers, strict=True))
    assert tight.residency.held == 0
    other = SVDVideoPipeline(tight)(PHOTO, **asked, **video)
    apart = [np.abs(np.int16(a) - np.int16(b)).max() for a, b in zip(frames, other, strict=True)]
    assert max(apart) <= 1


def test_a_network_called_before_any_clip_has_its_weights(folder: Path) -> None:
    """With little memory nothing is loaded beforehand."""
    tight = kinora.load(folder, device="cpu", memory=1 << 20)
    assert tight.residency.held == 0
    free = by_hand(Pipe(kinora.load(folder, device="cpu")))
    assert all(map(torch.equal, by_hand(Pipe(tight)), free))


def test_networks_called_by_hand_answer_as_in_diffusers(pipe: Pipe, folder: Path) -> None:
    theirs = parity.diffusers_pipeline(folder)
    with torch.no_grad():
        pairs = list(zip(by_hand(pipe), by_hand(theirs), strict=True))
    assert all(torch.allclose(a, b, atol=2e-3, rtol=1e-3) for a, b in pairs)
    sample = torch.randn((1, 3, 8, 8, 12), generator=seeded(1))  # photos differ from frame to frame
    told = (torch.randn((1, 1, 32), generator=seeded(2)), torch.tensor([[6.0, 127.0, 0.02]]))
    with torch.no_grad():
        ours, other = (p.unet(sample, torch.tensor(0.7), *told)[0] for p in (pipe, theirs))
    assert torch.allclose(ours, other, atol=1e-3)
    assert pipe.vae.config.scaling_factor == theirs.vae.config.scaling_factor
    assert pipe.unet.config["num_frames"] == theirs.unet.config.num_frames
    with pytest.raises(RequestError, match="one embedding a clip"):
        pipe.unet(sample, 0.7, torch.zeros(1, 2, 32), told[1])


def fake_accelerator(monkeypatch: pytest.MonkeyPatch, free: int) -> torch.device:
    """A GPU that there is not, with free memory, for plans alone."""
    device = torch.device("cuda:0")
    monkeypatch.setattr("kinora.compat.place.pick_device", lambda name=None: device)
    monkeypatch.setattr("kinora.runtime.residency.free_memory", lambda where: free)
    return device


@pytest.mark.parametrize(
    ("offload", "streaming"),
    [("enable_model_cpu_offload", False), ("enable_sequential_cpu_offload", True)],
)
def test_offloading_moves_nothing_at_once_and_has_the_planner_at_work(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, offload: str, streaming: bool
) -> None:
    device = fake_accelerator(monkeypatch, 64 << 30)
    getattr(pipe, offload)()
    assert pipe.device == device
    assert pipe.pipeline.residency.held == 0, "nothing is on the accelerator yet"
    asked = kinora.Request(image=None).resolved(pipe.pipeline.config, (64, 64))
    chosen = pipe.pipeline.arrange([asked])
    assert chosen is not None
    assert chosen.turns
    assert chosen.streaming == streaming
    assert pipe.pipeline.residency.source is not None
    pipe.to("cuda")
    assert pipe.pipeline.arrange([asked]) == chosen, "it is there already"
    pipe.remove_all_hooks()
    monkeypatch.setattr("kinora.runtime.residency.Residency.fill", lambda self: None)
    assert pipe.pipeline.arrange([asked]) is None


def test_offloading_names_its_device(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def pick(name: str | None = None) -> torch.device:
        asked.append(name)
        return torch.device("cpu")

    monkeypatch.setattr("kinora.compat.place.pick_device", pick)
    pipe.enable_model_cpu_offload()
    pipe.enable_model_cpu_offload(gpu_id=1)
    pipe.enable_sequential_cpu_offload(device="cuda:2")
    assert asked == [None, "cuda:1", "cuda:2"]


@pytest.mark.parametrize("memory", [None, 460 << 20])
def test_without_an_accelerator_offloading_changes_nothing_but_memory_is_planned(
    folder: Path, memory: int | None
) -> None:
    pipe = Pipe(kinora.load(folder, device="cpu", memory=memory))
    before = made(pipe)
    pipe.enable_model_cpu_offload(device="cpu")
    assert np.array_equal(made(pipe), before)
    assert (pipe.pipeline.residency.plan is None) == (memory is None)


def theirs(seed: int) -> dict[str, dict[str, Tensor]]:
    """Other weights, by diffusers' names."""
    return to_diffusers(parity.random_tensors(parity.SMALL, seed), parity.SMALL)


@pytest.mark.parametrize("name", ["unet", "vae", "image_encoder"])
@pytest.mark.parametrize("memory", [None, 1 << 40])
def test_weights_of_diffusers_names_are_loaded_and_stay(
    folder: Path,
    tmp_path: Path,
    name: str,
    memory: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = parity.random_tensors(parity.SMALL, 0)
    others = parity.random_tensors(parity.SMALL, 5)
    mixed = {k: (others if k.startswith(f"{name}.") else tensors)[k] for k in tensors}
    expected = tmp_path / "mixed.safetensors"
    unused = {k: t for k, t in mixed.items() if k.startswith("unused.")}
    networks = {n: parity.part(mixed, n) for n in parity.NETWORKS}
    kinora_weights.save_networks(expected, parity.SMALL, networks, unused=unused)
    reference = kinora.load(expected, device="cpu")

    pipe = Pipe(kinora.load(folder, device="cpu", memory=memory))
    if memory:
        monkeypatch.setattr(plan, "WAYS", ({"turns": True},))
    before = made(pipe)
    given = theirs(5)[name]
    result = getattr(pipe, name).load_state_dict(given, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    for _ in range(2):  # the second time they were read again, where memory is short
        clip = made(pipe)
        assert np.abs(clip - made(Pipe(reference))).max() < 1 / 255
        assert np.abs(clip - before).max() > 1 / 255
    assert pipe.pipeline.fingerprint == reference.fingerprint
    again = getattr(pipe, name).state_dict()
    assert all(torch.equal(tensor, given[key]) for key, tensor in again.items())
    pipe.to(torch.float64).to(torch.float32)
    assert np.abs(made(pipe) - clip).max() < 1 / 255


def test_weights_that_have_no_place_are_refused(pipe: Pipe) -> None:
    before, states = made(pipe), theirs(5)
    with pytest.raises(RequestError, match=r"0 of .* tensors found"):
        pipe.unet.load_state_dict({"nonsense": torch.zeros(1)}, strict=False)
    part = {"conv_in.bias": states["unet"]["conv_in.bias"], "nonsense": torch.zeros(1)}
    with pytest.raises(RequestError, match=r"1 of .* missing: .*no place here: nonsense"):
        pipe.unet.load_state_dict(part)
    with pytest.raises(CheckpointError, match="shape"):
        pipe.unet.load_state_dict({"conv_in.bias": torch.zeros(3)}, strict=False)
    with pytest.raises(CheckpointError, match="holds NaN"):
        pipe.unet.load_state_dict({"conv_in.bias": torch.full((32,), torch.nan)}, strict=False)
    assert np.array_equal(made(pipe), before)
    result = pipe.unet.load_state_dict(part, strict=False)
    assert result.unexpected_keys == ["nonsense"]
    assert "conv_in.weight" in result.missing_keys
    own = dict(pipe.pipeline.networks.unet.state_dict())
    assert pipe.unet.load_state_dict(own).missing_keys == [], "Kinora's own names, too"


@pytest.mark.parametrize("name", ["unet", "vae", "image_encoder"])
def test_networks_of_diffusers_own_may_take_the_place_of_ours(
    pipe: Pipe, folder: Path, tmp_path: Path, name: str
) -> None:
    other = parity.diffusers_pipeline(parity.write_folder(tmp_path / "other", parity.SMALL, seed=5))
    mixed = parity.diffusers_pipeline(folder)
    before = made(pipe)
    for each in (pipe, mixed):
        setattr(each, name, getattr(other, name))
    frames = made(pipe)
    assert np.abs(frames - made(mixed)).max() < 1 / 255
    assert np.abs(frames - before).max() > 1 / 255
    recipe = made(pipe, output_type="pil")[0][0].info["kinora"]
    assert recipe["changed"] == [name]
    assert recipe["fingerprint"] is None


def test_a_wrapped_network_is_called(pipe: Pipe) -> None:
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            self.calls += 1
            return self.inner(*args, **kwargs)

    before = made(pipe)
    pipe.unet = Wrapped(pipe.unet)
    assert np.array_equal(made(pipe), before)
    assert pipe.unet.calls == SMALL["num_inference_steps"]


def test_a_patched_forward_is_called(pipe: Pipe) -> None:
    before, inner = made(pipe), pipe.unet.forward

    def doubled(*args: Any, **kwargs: Any) -> tuple[Tensor]:  # noqa: ANN401
        return (inner(*args, **kwargs)[0] * 2,)

    pipe.unet.forward = doubled
    assert np.abs(made(pipe) - before).max() > 1 / 255


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("vae", None, "must be a network with diffusers' calls"),
        ("unet", 3, "must be a network with diffusers' calls"),
        ("image_encoder", nn.Linear, "must be a network with diffusers' calls"),
        ("scheduler", object(), "sigmas"),
        ("feature_extractor", object(), "_encode_image"),
        ("video_processor", object(), "_encode_image"),
        ("_callback_tensor_inputs", ["latents"], "callback"),
    ],
)
def test_what_would_be_ignored_is_refused(
    pipe: Pipe, name: str, value: object, advice: str
) -> None:
    with pytest.raises(RequestError, match=f"{name}.*{advice}"):
        setattr(pipe, name, value)
    pipe.my_own_note = value  # pyright: ignore[reportAttributeAccessIssue]


def test_networks_of_ours_are_given_by_their_weights(pipe: Pipe) -> None:
    with pytest.raises(RequestError, match=r"load_state_dict\(network.state_dict\(\)\)"):
        pipe.unet = pipe.pipeline.networks.unet


@pytest.mark.parametrize("name", ["unet", "image_encoder"])
def test_networks_move_together(pipe: Pipe, name: str) -> None:
    network = getattr(pipe, name)
    assert network.to("cpu", torch.float32) is network
    assert network.to(memory_format=torch.channels_last) is network
    for change in (lambda: network.to(torch.float16), network.half):
        with pytest.raises(RequestError, match=r"use pipe\.to"):
            change()
    pipe.vae.to(dtype=torch.float64)
    assert pipe.vae.dtype == torch.float64
    assert pipe.dtype == torch.float32


def test_a_class_that_overrides_what_is_not_asked_for_is_refused() -> None:
    with pytest.raises(RequestError, match="Own overrides guidance_scale: pass min_guidance_scale"):

        class Own(Pipe):
            guidance_scale = 7.0


@pytest.mark.parametrize("name", [n for n in METHODS if n.startswith(("_", "prep", "deco"))])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_overridden_methods_are_called_with_diffusers_arguments(
    folder: Path, name: str, guidance: float
) -> None:
    """By the same override in both libraries, frames are the same."""

    def overridden(base: Any) -> Any:  # noqa: ANN401
        def method(self: Any, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
            return getattr(base, name)(self, *args, **kwargs) * 1.5

        return type("Own", (base,), {name: method})

    from diffusers import StableVideoDiffusionPipeline as Theirs

    values = {"max_guidance_scale": guidance, "num_videos_per_prompt": 2}
    ours = overridden(Pipe).from_pretrained(folder)
    assert isinstance(ours, Pipe)
    reference = overridden(Theirs).from_pretrained(folder)
    parity.mend(reference.unet)
    reference.set_progress_bar_config(disable=True)
    frames = made(ours, **values)
    assert np.abs(frames - made(Pipe.from_pretrained(folder), **values)).max() > 1 / 255
    assert np.abs(frames - made(reference, **values)).max() < 1 / 255
    assert made(ours, **SMALL | values, output_type="pil")[0][0].info["kinora"]["changed"] == [name]


def test_methods_may_be_set_on_a_pipeline(pipe: Pipe) -> None:
    before, seen = made(pipe), list[str]()

    def fixed(*arguments: Any) -> Tensor:  # noqa: ANN401
        shape = (arguments[0], arguments[1], 4, 8, 12)
        return torch.randn(shape, generator=seeded(9)) * pipe.scheduler.init_noise_sigma

    class Bar:
        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            seen.append("closed")

        def update(self) -> None:
            seen.append("step")

    pipe.prepare_latents = fixed
    pipe.check_inputs = lambda image, height, width: seen.append(f"{image.size} {height} {width}")
    pipe.progress_bar = lambda total: Bar()
    frames = made(pipe)
    assert seen == ["(48, 32) 32 48", "step", "step", "closed"]
    noise = torch.randn((1, 3, 4, 8, 12), generator=seeded(9))
    assert np.abs(frames - made(Pipe(pipe.pipeline), latents=noise)).max() < 1 / 255
    assert np.abs(frames - before).max() > 1 / 255
    pipe.prepare_latents = lambda *arguments: torch.zeros(1, 2)
    with pytest.raises(RequestError, match="latents of shape"):
        made(pipe)


def test_every_name_that_diffusers_call_goes_by_is_ours_or_refused() -> None:
    """Of diffusers as installed."""
    from diffusers import StableVideoDiffusionPipeline as Theirs

    code = Theirs.__call__
    while hasattr(code, "__wrapped__"):
        code = code.__wrapped__
    methods = [code, *(getattr(Theirs, n) for n in METHODS if n.startswith(("_", "prep", "deco")))]
    used = {n for method in methods for n in method.__code__.co_names if hasattr(Theirs, n)}
    used |= {"unet", "vae", "image_encoder", "feature_extractor", "scheduler", "video_processor"}
    used |= {"_guidance_scale", "_num_timesteps"}
    assert {"prepare_latents", "_execution_device", "_guidance_scale"} <= used
    ours = {*METHODS, *REFUSED, "unet", "vae", "image_encoder"}
    assert used - ours == {"dtype", "parameters", "to"}, "of tensors and networks"
