"""Training: whole runs of the test-sized model."""

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from kinora.config import TINY
from kinora.errors import CheckpointError, NotFiniteError
from kinora.train import Progress, loop, train_unet, train_vae
from kinora.train.cache import encode_clips
from kinora.train.chance import draws
from kinora.train.export import read_vae
from kinora.weights import load_networks
from tests.runs import UNET, VAE


def silent(progress: Progress) -> None:
    pass


def stop_after(step: int) -> Callable[[Progress], None]:
    """A watcher that presses Ctrl-C when a step has been reported."""

    def report(progress: Progress) -> None:
        if progress.stage == "train" and progress.step == step:
            signal.raise_signal(signal.SIGINT)

    return report


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with both networks trained, never interrupted."""
    run = tmp_path_factory.mktemp("run")
    assert train_vae(VAE, run, report=silent)
    assert train_unet(UNET, run, report=silent)
    return run


def same(first: Path, second: Path) -> None:
    one, two = load_file(first), load_file(second)
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def log(run: Path, part: str) -> list[dict[str, object]]:
    lines = (run / part / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_resumed_equals_uninterrupted_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_vae(VAE, tmp_path, report=stop_after(1))
    assert not train_vae(VAE, tmp_path, minutes=0.0, report=silent)
    assert train_vae(VAE, tmp_path, report=silent)
    for name in ("checkpoint", "vae"):
        same(trained / f"vae/{name}.safetensors", tmp_path / f"vae/{name}.safetensors")

    with pytest.raises(KeyboardInterrupt):
        train_unet(UNET, tmp_path, report=stop_after(1))
    assert train_unet(UNET, tmp_path, report=silent)
    assert [e["step"] for e in log(tmp_path, "unet") if e["stage"] == "resume"] == [2]
    same(trained / "unet/checkpoint.safetensors", tmp_path / "unet/checkpoint.safetensors")
    same(trained / "model.safetensors", tmp_path / "model.safetensors")


def test_a_finished_run_stays_as_it_is(trained: Path) -> None:
    before = (trained / "unet/checkpoint.safetensors").read_bytes()
    assert train_unet(UNET, trained, report=silent)
    assert (trained / "unet/checkpoint.safetensors").read_bytes() == before


def test_a_run_hands_out_a_model_that_loads(trained: Path) -> None:
    path = trained / "model.safetensors"
    networks = load_networks(path, device=torch.device("cpu"), dtype=torch.float32)
    config, vae = read_vae(trained / "vae/vae.safetensors", torch.device("cpu"))
    assert networks.config.vae == config.vae
    assert networks.config.name == trained.name
    assert (networks.config.frames, networks.config.width, networks.config.height) == (2, 32, 16)
    for name, parameter in vae.named_parameters():
        stored = networks.vae.get_parameter(name)
        torch.testing.assert_close(stored, parameter, rtol=1e-3, atol=1e-6)


def test_latents_have_unit_deviation_once_scaled(trained: Path) -> None:
    config, _ = read_vae(trained / "vae/vae.safetensors", torch.device("cpu"))
    last = [entry for entry in log(trained, "vae") if entry["stage"] == "check"][-1]
    values = last["values"]
    assert isinstance(values, dict)
    assert config.vae.scale * values["std"] == pytest.approx(1, rel=1e-4)


def test_a_run_keeps_a_log_and_sample_sheets(trained: Path) -> None:
    steps = [entry["step"] for entry in log(trained, "unet") if entry["stage"] == "train"]
    assert steps == [1, 2, 3, 4]
    pictures, motions = 2, 2
    with Image.open(trained / "unet/samples/0000004.png") as sheet:
        assert sheet.size == (32 * (1 + UNET.frames), 16 * pictures * motions)


def test_nothing_half_written_is_left(trained: Path) -> None:
    assert not [path for path in trained.rglob("*") if "partial" in path.name]


def test_a_smaller_run_gives_a_larger_one_its_weights(trained: Path, tmp_path: Path) -> None:
    larger = replace(UNET, width=64, height=32, frames=3, steps=1, init=str(trained))
    train_unet(replace(larger, learning_rate=1e-12), tmp_path, report=silent)
    start = load_file(trained / "unet/checkpoint.safetensors")
    now = load_file(tmp_path / "unet/checkpoint.safetensors")
    for name in (name for name in now if name.startswith("weights.")):
        old = start[name.replace("weights.", "average.")]
        torch.testing.assert_close(now[name], old, rtol=0, atol=1e-6)


def test_the_unet_needs_an_autoencoder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="kinora train vae"):
        train_unet(UNET, tmp_path, report=silent)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"learning_rate": 1.0}, "learning_rate"),
        ({"model": replace(TINY, unet=replace(TINY.unet, heads=(1, 2)))}, "model.unet.heads"),
    ],
)
def test_a_changed_setting_is_named(trained: Path, change: dict[str, object], name: str) -> None:
    with pytest.raises(CheckpointError, match=f"with {name} ") as caught:
        train_unet(replace(UNET, **change), trained, report=silent)
    assert "\n" not in str(caught.value)


def test_a_cache_of_other_clips_is_not_used(trained: Path, tmp_path: Path) -> None:
    for name in ("vae/vae.safetensors", "unet/cache/recipe.json", "unet/cache/00000.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    with pytest.raises(CheckpointError, match="other settings"):
        train_unet(replace(UNET, seed=5), tmp_path, report=silent)


def stored(run: Path) -> dict[Path, bytes]:
    """Every checkpoint and model of a run, none of which may hold NaN or infinity."""
    paths = [path for path in run.rglob("*.safetensors") if "pool" not in path.parts]
    for path in paths:
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path
    return {path: path.read_bytes() for path in paths}


def test_a_run_that_diverges_at_once_leaves_no_checkpoint(tmp_path: Path) -> None:
    """As `kinora train vae --learning-rate 1e20 --save-every 4 --steps 40`, without reports."""
    diverging = replace(VAE, learning_rate=1e20, report_every=40, save_every=4, steps=40)
    with pytest.raises(NotFiniteError, match=r"at step 2\. There is no checkpoint") as caught:
        train_vae(diverging, tmp_path, report=silent)
    assert "lower learning rate" in str(caught.value)
    assert not stored(tmp_path)


@pytest.mark.parametrize(
    ("part", "rate", "first"), [("vae", 1e30, 6), ("vae", 1e39, 5), ("unet", 1e30, 6)]
)
def test_a_run_that_diverges_names_the_step_and_keeps_the_last_good_checkpoint(
    part: str,
    rate: float,
    first: int,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether or not anything is reported in between.

    A rate of 1e30 in step 5 leaves finite weights, whose loss in step 6 is not finite; one of 1e39
    is beyond what fp32 holds, and so are the weights after step 5.
    """
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    before = stored(tmp_path)
    normal = loop.learning_rate
    monkeypatch.setattr(
        loop, "learning_rate", lambda step, **given: rate if step == 4 else normal(step, **given)
    )
    longer = {"steps": 40, "report_every": 100, "save_every": 6}
    train = {
        "vae": partial(train_vae, replace(VAE, **longer)),
        "unet": partial(train_unet, replace(UNET, **longer, sample_every=100)),
    }
    with pytest.raises(NotFiniteError, match=f"at step {first}.*checkpoint.*of step 4"):
        train[part](tmp_path, report=silent)
    assert stored(tmp_path) == before


def test_encoded_clips_hold_the_noisy_photo_and_the_clean_picture(trained: Path) -> None:
    _, vae = read_vae(trained / "vae/vae.safetensors", torch.device("cpu"))
    frames = torch.randint(256, (3, 2, 3, 16, 32), dtype=torch.uint8)
    quiet = encode_clips(vae, frames, torch.zeros(3), draws("x", 0))
    loud = encode_clips(vae, frames, torch.tensor([0.0, 0.5, 0.5]), draws("x", 0))
    torch.testing.assert_close(quiet["image"][:, 0], quiet["mean"][:, 0], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(loud["image"][0], quiet["image"][0], rtol=1e-2, atol=1e-3)
    assert not torch.allclose(loud["image"][1], quiet["image"][1], rtol=1e-2, atol=1e-2)
    assert torch.equal(loud["picture"], frames[:, 0])
