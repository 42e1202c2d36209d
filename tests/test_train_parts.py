"""The parts of training: checkpoints, rates, averages, losses, data."""

import json
import math
import os
import signal
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from kinora.config import TINY
from kinora.errors import CheckpointError, NotFiniteError, OutputError, RequestError
from kinora.models import VideoAutoencoder
from kinora.train import UNetTraining, VAETraining, tensors
from kinora.train.average import Average
from kinora.train.birth import new_vae, start_from
from kinora.train.cache import Batch, draw_batch
from kinora.train.chance import draws, seed_of
from kinora.train.checkpoint import resume, save
from kinora.train.data import crops, pool_scenes, shuffled
from kinora.train.export import write_vae
from kinora.train.loop import interruptible
from kinora.train.loss import (
    bin_edges,
    bin_names,
    by_bin,
    diffusion_loss,
    draw_sigma,
    flow_loss,
    halved,
    vae_loss,
)
from kinora.train.progress import Journal, Meter, Progress
from kinora.train.rate import learning_rate
from kinora.train.render import rendered
from kinora.train.sheet import write_sheet
from kinora.train.state import State, make_state
from kinora.train.tensors import write_tensors
from kinora.train.unet import Trained
from kinora.train.vae import Autoencoding
from kinora.types import Condition
from tests.runs import SCENES, UNET, VAE


def test_the_number_of_steps_may_change(tmp_path: Path) -> None:
    path, told = tmp_path / "c.safetensors", list[Progress]()
    state, journal = tiny_state(), Journal(tmp_path / "log.jsonl", told.append)
    resume(path, state, VAE, journal)
    assert not told, "there is nothing to go on from"
    save(path, state, VAE)
    resume(path, state, replace(VAE, steps=999, photos=("x",)), journal)
    assert [(p.stage, p.step, p.steps) for p in told] == [("resume", 0, 999)]
    with pytest.raises(CheckpointError, match="seed 0, but this run has 1"):
        resume(path, tiny_state(), replace(VAE, seed=1), journal)


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all", b"\x80\x02}q\x00."])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"c\.safetensors"):
        resume(path, tiny_state(), VAE, Journal(tmp_path / "log.jsonl", print))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save(path, tiny_state(width=3), VAE)
    with pytest.raises(CheckpointError, match=r"weights\.weight is of shape \(2, 3\)"):
        resume(path, tiny_state(), VAE, Journal(tmp_path / "log.jsonl", print))


def test_an_old_file_survives_a_failed_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.safetensors"
    write_tensors(path, {"a": torch.ones(1)}, {})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(OutputError, match=r"file\.safetensors: No space left on device"):
        write_tensors(path, {"a": torch.zeros(1)}, {})
    assert load_file(path)["a"].item() == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("part", ["weights.weight", "average.bias", "optimizer.exp_avg_sq.weight"])
def test_nothing_that_is_not_finite_is_written_or_gone_on_from(tmp_path: Path, part: str) -> None:
    path, state = tmp_path / "c.safetensors", tiny_state()
    state.network(torch.ones(1, 2)).sum().backward()
    state.optimizers[0].step()
    save(path, state, VAE)
    before = path.read_bytes()
    broken = {name: tensor.clone() for name, tensor in state.tensors().items()}
    broken[part].view(-1)[-1] = math.inf
    with pytest.raises(NotFiniteError, match=f"c.safetensors .*{part} holds infinity"):
        write_tensors(path, broken, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    save_file(broken, path, load_metadata(before))  # as older versions did
    with pytest.raises(CheckpointError, match=f"holds infinity .*{part}.*remove it"):
        resume(path, tiny_state(), VAE, Journal(tmp_path / "log.jsonl", print))


def load_metadata(file: bytes) -> dict[str, str]:
    size = int.from_bytes(file[:8], "little")
    return json.loads(file[8 : 8 + size])["__metadata__"]


def tiny_state(width: int = 2) -> State:
    network = torch.nn.Linear(width, 2)
    return make_state(network, replace(VAE, weight_decay=0.5), torch.device("cpu"))


def test_only_matrices_decay() -> None:
    state = tiny_state()
    kinds = [[p.ndim for p in group["params"]] for group in state.groups()]
    assert kinds == [[2], [1]]
    assert [group["weight_decay"] for group in state.groups()] == [0.5, 0.0]


def test_ctrl_c_asks_first_and_then_insists() -> None:
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with interruptible(None) as stop:
            assert not stop.now()
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.now()

    with pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_rate_rises_then_falls_to_its_floor() -> None:
    rates = [learning_rate(s, peak=2.0, warm_up=10, steps=110, floor=0.1) for s in range(120)]
    assert rates[0] == pytest.approx(2 / 11)
    assert max(rates) == rates[10] == 2.0
    assert rates[60] == pytest.approx(2 * 0.55)
    assert rates[110] == rates[119] == pytest.approx(0.2)


def test_the_average_forgets_its_start_and_follows_a_constant() -> None:
    network = torch.nn.Linear(2, 2)
    average = Average(network, 0.999)
    with torch.no_grad():
        network.weight.fill_(3.0)
    for step in range(300):
        average.update(network, step)
    torch.testing.assert_close(
        average.tensors["weight"], network.weight.detach(), rtol=1e-4, atol=0
    )


def test_randomness_depends_on_purpose_seed_place_and_rank() -> None:
    seeds = [seed_of("a", 0, 1), seed_of("b", 0, 1), seed_of("a", 1, 1), seed_of("a", 0, 2)]
    seeds += [seed_of("a", 0, 1, rank=1), seed_of("a", 0), seed_of("a", 0, 1, 0)]
    assert len(set(seeds)) == len(seeds)
    assert torch.equal(
        torch.rand(3, generator=draws("a", 0, 1)), torch.rand(3, generator=draws("a", 0, 1))
    )


def test_an_epoch_sees_every_clip_once_in_an_order_of_its_own() -> None:
    epochs = [torch.cat([shuffled("o", 0, 5 * e + s, 4, 20) for s in range(5)]) for e in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(20)) for epoch in epochs)
    assert not torch.equal(*epochs)


def test_noise_levels_are_log_normal() -> None:
    logs = torch.cat([draw_sigma(16, -0.2, 1.4, draws("x", 0, k)) for k in range(400)]).log()
    assert logs.mean().item() == pytest.approx(-0.2, abs=0.02)
    assert logs.std().item() == pytest.approx(1.4, abs=0.02)


def test_losses_are_sorted_by_noise_into_equally_likely_ranges() -> None:
    edges = bin_edges(-0.2, 1.4)
    sigma = draw_sigma(4000, -0.2, 1.4, draws("x", 0))
    counts = torch.bincount(torch.bucketize(sigma, torch.tensor(edges)))
    assert counts.tolist() == pytest.approx([1000] * 4, abs=3)
    values = by_bin(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([1e-3, 2e-3, 1e3]), edges)
    assert values[0] == 2
    assert values[3] == 5
    assert values[1:3].isnan().all()
    assert len(bin_names(edges)) == 4


def test_the_meter_averages_what_was_seen() -> None:
    meter = Meter(["a", "b", "c"])
    meter.add(torch.tensor([1.0, math.nan, math.nan]))
    meter.add(torch.tensor([3.0, 5.0, math.nan]))
    assert meter.read() == {"a": 2.0, "b": 5.0}
    assert meter.read() == {}


def condition(b: int) -> Condition:
    return Condition(torch.zeros(b, 1, 4, 2, 2), torch.zeros(b, 1, 3), torch.zeros(b, 3))


def test_the_diffusion_loss_is_the_error_of_v() -> None:
    clean, noise = torch.randn(2, 3, 2, 4, 2, 2)
    sigma = torch.tensor([0.02, 1.0, 50.0])
    level = sigma[:, None, None, None, None]
    v = (noise - level * clean) / (1 + level**2).sqrt()
    guess = torch.randn_like(v)

    def network(x: Tensor, c_noise: Tensor, told: Condition) -> Tensor:
        return guess

    loss = diffusion_loss(network, condition(3), clean, noise, sigma)
    expected = (guess - v).square().mean((1, 2, 3, 4))
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)


def test_a_perfect_copy_costs_nothing_but_kl() -> None:
    frames = torch.rand(2, 3, 3, 4, 4)
    unit = torch.zeros(6, 8, 1, 1)
    cost = partial(vae_loss, gradient_weight=1.0, kl_weight=2.0, coarse_weight=4.0)
    assert cost(frames, frames, unit, halved(frames)).total.item() == 0
    far = unit + torch.cat([torch.ones(4), torch.zeros(4)])[:, None, None]
    assert cost(frames, frames, far).total.item() == pytest.approx(1.0)
    off = cost(frames + 0.5, frames, unit, halved(frames) - 0.25)
    assert off.parts.tolist() == pytest.approx([0.5, 0.0, 0.0, 0.25], abs=1e-6)
    assert off.total.item() == pytest.approx(0.5 + 4 * 0.25)


def test_halving_takes_the_mean_of_four() -> None:
    clip = torch.arange(16.0).reshape(1, 1, 1, 4, 4)
    assert halved(clip).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_dropped_conditions_are_zeros_and_leave_the_numbers() -> None:
    batch = Batch(*(torch.ones(2, *shape) for shape in ((3, 4, 2, 2), (3, 4, 4))), *(
        torch.ones(2, *shape) for shape in ((1, 4, 2, 2), (3,), (3, 2, 1, 1))
    ))  # fmt: skip
    told = batch.condition(torch.ones(2, 1, 5), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert told.image.mean((1, 2, 3, 4)).tolist() == [1, 0]
    assert told.context.mean((1, 2)).tolist() == [0, 1]
    assert told.vector.eq(1).all()


def test_crops_are_a_function_of_the_step() -> None:
    pool = torch.randint(256, (3, pool_scenes(VAE).frames, 3, 20, 20), dtype=torch.uint8)
    first = crops(VAE, pool, 0)
    assert first.shape == (1, 2, 3, 16, 16)
    assert torch.equal(first, crops(VAE, pool, 0))
    assert not torch.equal(first, crops(VAE, pool, 2))
    assert first.min() >= -1
    assert first.max() <= 1


def test_a_step_may_see_squares_of_the_encoded_clips() -> None:
    """Of the clips that it would see whole, each cut alike in all frames and in the photo."""
    settings = replace(UNET, width=64, height=48, batch=2, clips=2, crop=32)
    here = torch.arange(16 * 12).view(12, 16).expand(2, 2, 4, 12, 16).contiguous()
    cache = {
        "mean": here / 64,
        "std": torch.zeros(here.shape),
        "image": here[:, :1] / 64,
        "picture": torch.zeros(2, 3, 48, 64, dtype=torch.uint8),
        "vector": torch.tensor([[1.0, 2, 3], [4, 5, 6]]),
        "flow": (here[:, :, :2] / 1024),
    }
    cpu = torch.device("cpu")
    places: set[float] = set()
    for step in range(8):
        cut = draw_batch(settings, TINY, cache, step, cpu)
        whole = draw_batch(replace(settings, crop=None), TINY, cache, step, cpu)
        assert torch.equal(cut.vector, whole.vector)
        assert cut.clean.shape == (2, 2, 4, 8, 8)
        clips = cut.clean / TINY.vae.scale
        for clip, image, flow in zip(clips, cut.image, cut.flow, strict=True):
            y, x = divmod(round(64 * clip[0, 0, 0, 0].item()), 16)
            square = here[0, 0, 0, y : y + 8, x : x + 8] / 64
            assert torch.allclose(clip, square.expand_as(clip))
            assert torch.allclose(image, square.expand_as(image))
            assert torch.allclose(flow, square.expand_as(flow))
            places.add(y * 16 + x)
        again = draw_batch(settings, TINY, cache, step, cpu)
        assert torch.equal(again.clean, cut.clean)
    assert len(places) > 4, "squares lie anywhere"


def test_the_loss_on_the_flow_is_its_squared_distance_where_it_is_told() -> None:
    flow = torch.arange(2.0 * 3 * 2 * 4 * 4).view(2, 3, 2, 4, 4)
    right = flow.flatten(0, 1).unflatten(-1, (2, 2)).unflatten(-3, (2, 2)).mean((-3, -1))
    assert flow_loss(right, flow) == 0
    assert flow_loss(right + torch.tensor([3.0, 4.0])[:, None, None], flow) == 25


def test_a_temporal_decoder_starts_where_the_frame_wise_one_ended(tmp_path: Path) -> None:
    """Frames come out the same, whatever the clip, until the blocks in time have learnt."""
    frame_wise = new_vae(replace(VAE, frames=1).trained.vae)
    for name, parameter in frame_wise.named_parameters():
        if not name.startswith("post_quant_conv"):
            torch.nn.init.normal_(parameter, std=0.1)
    write_vae(tmp_path / "vae.safetensors", replace(VAE, frames=1).trained, frame_wise)
    temporal = new_vae(VAE.trained.vae)
    start_from(temporal, tmp_path / "vae.safetensors")
    latents = torch.randn(2, 3, 4, 3, 5)
    torch.testing.assert_close(temporal.decode(latents), frame_wise.decode(latents))
    images = torch.randn(2, 3, 8, 12)
    torch.testing.assert_close(temporal.encode(images), frame_wise.encode(images))
    learning = {n for n, p in temporal.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in temporal.named_parameters() if n.startswith("decoder.")}


def test_an_autoencoder_of_other_widths_is_no_start(tmp_path: Path) -> None:
    write_vae(tmp_path / "vae.safetensors", VAE.trained, new_vae(VAE.trained.vae))
    other = replace(VAE.trained.vae, channels=(16, 16, 16))
    with pytest.raises(CheckpointError, match="widths"):
        start_from(VideoAutoencoder(other), tmp_path / "vae.safetensors")


def test_a_sheet_has_a_row_for_each_clip(tmp_path: Path) -> None:
    clips = torch.stack([torch.full((2, 3, 4, 6), value) for value in (-1.0, 1.0)])
    path = write_sheet(tmp_path / "new" / "sheet.png", [clips, -clips])
    with Image.open(path) as sheet:
        assert sheet.size == (12, 16)
        shades = [sheet.getpixel((0, y)) for y in (0, 4, 8, 12)]
    assert shades == [(v, v, v) for v in (0, 255, 255, 0)]


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"width": 20},
        {"batch": 9},
        {"crop": 12},
        {"crop": 64},
        {"drop_image": 2.0},
        {"average": 1.0},
        {"learning_rate": 1e39},
        {"learning_rate": math.inf},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(change))):
        replace(UNET, **change)


def test_settings_are_plain_data() -> None:
    for settings in (VAE, UNET, VAETraining(), UNetTraining()):
        assert json.loads(json.dumps(asdict(settings)))


def test_networks_train_in_mixed_precision() -> None:
    """What a GPU does, on the CPU: weights in fp32, their work in bf16."""
    network = Trained(TINY)
    vae = Autoencoding(VideoAutoencoder(TINY.vae), coarse=True)
    x = torch.randn(2, 3, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        context = network.image_encoder(torch.rand(2, 3, 32, 32))
        told = Condition(torch.randn(2, 1, 4, 8, 8), context, torch.ones(2, 3))
        noise = network.unet(x, torch.zeros(2), told)
        frames, coarse, _ = vae(torch.rand(1, 2, 3, 16, 16), torch.randn(2, 4, 4, 4))
    assert coarse.shape == (1, 2, 3, 8, 8)
    (noise.float().mean() + frames.float().mean()).backward()
    assert noise.dtype == frames.dtype == torch.bfloat16
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in network.parameters())


def test_rendering_in_processes_changes_nothing() -> None:
    scenes = replace(SCENES, width=8, height=8, frames=1, shapes=1, layers=1)
    cpu = torch.device("cpu")
    apart, here = (dict(rendered(scenes, "x", 0, [0, 3], cpu, workers)) for workers in (2, 1))
    assert list(apart) == list(here) == [0, 3]
    for k, clips in here.items():
        assert clips.keys() == apart[k].keys()
        assert all(torch.equal(tensor, apart[k][name]) for name, tensor in clips.items())
