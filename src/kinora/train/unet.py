"""Training UNet and image encoder on encoded clips."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from kinora.config import ModelConfig
from kinora.device import pick_device
from kinora.models import ImageEncoder, VideoUNet
from kinora.pipeline import Pipeline
from kinora.train import checkpoint
from kinora.train.cache import draw_batch, fill_cache
from kinora.train.chance import draws, seed_of
from kinora.train.export import read_vae
from kinora.train.loop import interruptible, run
from kinora.train.loss import (
    Loss,
    bin_edges,
    bin_names,
    by_bin,
    diffusion_loss,
    draw_sigma,
    flow_loss,
)
from kinora.train.precision import mixed_precision
from kinora.train.progress import Journal, Report
from kinora.train.samples import make_sampling
from kinora.train.settings import UNetTraining
from kinora.train.state import State, make_state
from kinora.types import Condition, Latents, PerClip
from kinora.weights import Networks, save_networks

__all__ = ["Trained", "train_unet"]


class Trained(nn.Module):
    """What is trained together: the UNet, and the image encoder whose embedding it is told.

    flow: whether to tell the flow from what the UNet's middle gives; only to learn by.
    """

    def __init__(self, config: ModelConfig, *, flow: bool = False) -> None:
        super().__init__()
        self.unet = VideoUNet(config.unet)
        self.image_encoder = ImageEncoder(config.image_encoder)
        self.flow_out = nn.Conv2d(config.unet.channels[-1], 2, 1) if flow else None


def train_unet(
    settings: UNetTraining, folder: Path, *, minutes: float | None = None, report: Report
) -> bool:
    """Train the UNet in `folder`/unet, going on with what is there; True when finished.

    Needs the autoencoder that `train_vae` left in `folder`/vae (or in that of `settings.init`).
    Leaves checkpoint.safetensors, log.jsonl, cache/ (encoded clips) and samples/ in the folder
    unet, and at every save `folder`/model.safetensors: all networks, averaged, in fp16.

    minutes: stop and save after so long. Ctrl-C saves, too, and then raises KeyboardInterrupt.
    Raises CheckpointError when the autoencoder is missing or the folder's checkpoint was made with
    other settings, MediaError when a photo can't be read, NotFiniteError when a loss, gradient or
    weight is NaN or infinite.
    """
    device = pick_device(settings.device)
    out = folder / "unet"
    vae_path = _vae_path(settings, folder)
    vae_config, vae = read_vae(vae_path, device)
    config = configured(settings, vae_config, folder.resolve().name)
    state = start(settings, config, device)
    journal = Journal(out / "log.jsonl", report)
    checkpoint.resume(out / "checkpoint.safetensors", state, settings, journal)
    averaged = Trained(config).to(device)
    networks = Networks(config, averaged.unet, vae, averaged.image_encoder, "in training", ())
    sample = make_sampling(settings, Pipeline(networks), out / "samples")

    def save() -> None:
        state.average.write_to(averaged)
        parts = {"unet": averaged.unet, "vae": vae, "image_encoder": averaged.image_encoder}
        path = folder / "model.safetensors"
        # First: values beyond what float16 holds mean that the run diverged.
        save_networks(path, config, parts, dtype=torch.float16, overwrite=True)
        checkpoint.save(out / "checkpoint.safetensors", state, settings)

    def watch() -> None:
        if state.step % settings.sample_every == 0 or state.step == settings.steps:
            state.average.write_to(averaged)
            sample(state.step)

    with interruptible(minutes) as stop:
        fingerprint = hashlib.sha256(vae_path.read_bytes()).hexdigest()
        cache = fill_cache(settings, out / "cache", vae, fingerprint, journal, stop)
        if cache is None:
            return False
        run(
            state,
            make_objective(cast(Trained, state.network), settings, config, cache, device),
            settings,
            names=part_names(settings),
            save=save,
            watch=watch,
            journal=journal,
            stop=stop,
        )
    return state.step >= settings.steps


def part_names(settings: UNetTraining) -> list[str]:
    """What the parts of the loss are called: ranges of σ, and the flow where it is learnt."""
    names = bin_names(bin_edges(settings.noise_mean, settings.noise_std))
    return [*names, "flow"] if settings.flow_weight > 0 else names


def configured(settings: UNetTraining, trained: ModelConfig, name: str) -> ModelConfig:
    """The model as it will be handed out: the trained autoencoder, this run's size and length.

    name: of the run, which becomes the model's; a model of another name has another licence, too.
    """
    mine = {} if name == settings.model.name else {"name": name, "licence": "unknown"}
    return replace(
        settings.model,
        **mine,
        vae=trained.vae,
        frames=settings.frames,
        width=settings.width,
        height=settings.height,
    )


def start(settings: UNetTraining, config: ModelConfig, device: torch.device) -> State:
    """Random weights, or the averaged ones of the run that this one starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("unet weights", settings.seed))
        network = Trained(config, flow=settings.flow_weight > 0)
    network.image_encoder.requires_grad_(settings.train_image_encoder)
    state = make_state(network, settings, device)
    if settings.init is not None:
        stored = checkpoint.read_average(Path(settings.init) / "unet" / "checkpoint.safetensors")
        fresh = {n: p for n, p in network.named_parameters() if n.startswith("flow_out.")}
        stored = {**fresh, **stored}
        both = {f"{kind}.{n}": t for n, t in stored.items() for kind in ("weights", "average")}
        state.load(both, step=0)
    return state


def make_objective(
    network: Trained,
    settings: UNetTraining,
    config: ModelConfig,
    cache: dict[str, Tensor],
    device: torch.device,
) -> Callable[[int], Loss]:
    """The loss of a step as a function of its number."""
    unet = cast(VideoUNet, torch.compile(network.unet)) if settings.compile else network.unet
    precision = mixed_precision(device)
    edges = bin_edges(settings.noise_mean, settings.noise_std)
    deepest: list[Tensor] = []

    def keep(module: nn.Module, given: object, made: Tensor) -> None:
        deepest.append(made)

    if network.flow_out is not None:
        network.unet.middle.register_forward_hook(keep)

    def forward(x: Latents, c_noise: PerClip, condition: Condition, /) -> Latents:
        with precision():
            return unet(x, c_noise, condition)

    def objective(step: int) -> Loss:
        batch = draw_batch(settings, config, cache, step, device)
        chance = draws("noise", settings.seed, step)
        kept = torch.rand(2, settings.batch, generator=chance).to(device)
        sigma = draw_sigma(settings.batch, settings.noise_mean, settings.noise_std, chance)
        noise = torch.randn(batch.clean.shape, generator=chance).to(device)
        with precision():
            context = network.image_encoder(batch.picture).float()
        condition = batch.condition(
            context,
            (kept[0] >= settings.drop_image).float(),
            (kept[1] >= settings.drop_context).float(),
        )
        sigma = sigma.to(device)
        each = diffusion_loss(forward, condition, batch.clean, noise, sigma)
        total, parts = each.mean(), by_bin(each.detach(), sigma, edges)
        if network.flow_out is not None:
            told = network.flow_out(deepest.pop().float())
            flow = flow_loss(told, batch.flow)
            total = total + settings.flow_weight * flow
            parts = torch.cat([parts, flow.detach()[None]])
        return Loss(total, parts)

    return objective


def _vae_path(settings: UNetTraining, folder: Path) -> Path:
    own = folder / "vae" / "vae.safetensors"
    if settings.init is None or own.exists():
        return own
    return Path(settings.init) / "vae" / "vae.safetensors"
