"""Training the autoencoder on made-up clips."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from kinora.config import ModelConfig
from kinora.device import pick_device
from kinora.errors import NotFiniteError
from kinora.models import VideoAutoencoder
from kinora.train import checkpoint
from kinora.train.birth import new_vae, start_from
from kinora.train.chance import draws, seed_of
from kinora.train.data import crops, held_out, pool_scenes, read_photos
from kinora.train.export import write_vae
from kinora.train.loop import Stop, interruptible, run
from kinora.train.loss import Loss, halved, vae_loss
from kinora.train.precision import mixed_precision
from kinora.train.progress import Journal, Progress, Report
from kinora.train.render import rendered
from kinora.train.settings import VAETraining
from kinora.train.shards import SHARD, missing_shards, read_shards, write_shards
from kinora.train.sheet import write_sheet
from kinora.train.state import State, make_state
from kinora.types import Frames

__all__ = ["encode_sample", "train_vae"]

PARTS = ("pixels", "gradient", "kl", "coarse")


def train_vae(
    settings: VAETraining, folder: Path, *, minutes: float | None = None, report: Report
) -> bool:
    """Train the autoencoder in `folder`/vae, going on with what is there; True when finished.

    Leaves checkpoint.safetensors (to go on from), vae.safetensors (averaged weights and the
    configuration, the latents' scale measured), sheet.png (frames above what became of them) and
    log.jsonl.

    minutes: stop and save after so long. Ctrl-C saves, too, and then raises KeyboardInterrupt.
    Raises CheckpointError when the folder's checkpoint was made with other settings, MediaError
    when a photo can't be read, NotFiniteError when a loss, gradient or weight is NaN or infinite.
    """
    device = pick_device(settings.device)
    out = folder / "vae"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("vae weights", settings.seed))
        network = new_vae(settings.trained.vae)
    if settings.init is not None:
        start_from(network, Path(settings.init) / "vae" / "vae.safetensors")
    state = make_state(network, settings, device)
    journal = Journal(out / "log.jsonl", report)
    checkpoint.resume(out / "checkpoint.safetensors", state, settings, journal)
    check = make_check(settings, out, journal, device)

    def save() -> None:
        check(state)  # first: it may find that the run diverged
        checkpoint.save(out / "checkpoint.safetensors", state, settings)

    with interruptible(minutes) as stop:
        pool = make_pool(settings, out / "pool", device, journal, stop)
        if pool is None:
            return False
        run(
            state,
            make_objective(network, settings, pool, device),
            settings,
            names=PARTS,
            save=save,
            watch=lambda: None,
            journal=journal,
            stop=stop,
        )
    return state.step >= settings.steps


def make_pool(
    settings: VAETraining, folder: Path, device: torch.device, journal: Journal, stop: Stop
) -> Tensor | None:
    """Render the clips to learn from, or those still missing; None when time ran out."""
    scenes, steps = pool_scenes(settings), -(-settings.pool // SHARD)
    missing = missing_shards(folder, settings.pool, {**asdict(scenes), "seed": settings.seed})
    made = rendered(scenes, "pool", settings.seed, missing, device, settings.workers)
    frames = ((k, {"frames": tensors["frames"]}) for k, tensors in made)
    for done, _ in enumerate(write_shards(folder, frames, stop.now), steps - len(missing) + 1):
        journal(Progress(stage="render", step=done, steps=steps))
    if stop.now():
        return None
    return read_shards(folder, settings.pool)["frames"]


def make_objective(
    network: VideoAutoencoder, settings: VAETraining, pool: Tensor, device: torch.device
) -> Callable[[int], Loss]:
    """The loss of a step as a function of its number."""
    pair = Autoencoding(network, coarse=settings.coarse_weight > 0)
    forward = cast(Autoencoding, torch.compile(pair)) if settings.compile else pair
    precision = mixed_precision(device)

    def objective(step: int) -> Loss:
        frames = crops(settings, pool, step).to(device)
        b, t, _, h, w = frames.shape
        factor = settings.model.vae.factor
        shape = (b * t, settings.model.vae.latent_channels, h // factor, w // factor)
        noise = torch.randn(shape, generator=draws("posterior", settings.seed, step)).to(device)
        with precision():
            made, coarse, moments = forward(frames, noise)
        return vae_loss(
            made.float(),
            frames,
            moments.float(),
            None if coarse is None else coarse.float(),
            gradient_weight=settings.gradient_weight,
            kl_weight=settings.kl_weight,
            coarse_weight=settings.coarse_weight,
        )

    return objective


class Autoencoding(nn.Module):
    """There and back, as one call, so that it compiles as one."""

    def __init__(self, vae: VideoAutoencoder, coarse: bool) -> None:
        super().__init__()
        self.vae = vae
        self.coarse = coarse

    def forward(self, frames: Frames, noise: Tensor) -> tuple[Frames, Tensor | None, Tensor]:
        """Frames decoded, those decoded from latents of half the size, and the moments."""
        moments = self.vae.encode(rearrange(frames, "b t c h w -> (b t) c h w"))
        latents = rearrange(
            encode_sample(moments, noise), "(b t) c h w -> b t c h w", b=len(frames)
        )
        coarse = self.vae.decode(halved(latents)) if self.coarse else None
        return self.vae.decode(latents), coarse, moments


def encode_sample(moments: Tensor, noise: Tensor) -> Tensor:
    """A draw from the posterior; noise: unit normal.  (Kingma & Welling 2014)"""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean + (log_variance / 2).exp() * noise


def make_check(
    settings: VAETraining, out: Path, journal: Journal, device: torch.device
) -> Callable[[State], None]:
    """Measure the averaged weights on what was not learnt, then write them with their scale.

    The function that is returned raises NotFiniteError when they give values that are not finite.
    """
    scenes = replace(settings.scenes, width=settings.size, height=settings.size)
    scenes = replace(scenes, frames=settings.frames)
    made_up = held_out(scenes, 16, settings.seed).frames.to(device)
    config = settings.trained
    photos = read_photos(settings.photos, config.width, config.height).to(device)
    network = VideoAutoencoder(config.vae).to(device)

    def check(state: State) -> None:
        state.average.write_to(network)
        values, sheets = measure(network, made_up, photos)
        if math.isinf(values["std"]) or any(map(math.isnan, values.values())):
            raise NotFiniteError("the averaged autoencoder gives values that are NaN or infinite")
        scale = 1 / values["std"]
        journal(Progress(stage="check", step=state.step, steps=settings.steps, values=values))
        write_vae(out / "vae.safetensors", with_scale(config, scale), network)
        for name, sheet in sheets.items():
            write_sheet(out / f"{name}.png", sheet)

    return check


def with_scale(config: ModelConfig, scale: float) -> ModelConfig:
    """The same model, whose latents are multiplied by `scale` for the sampler."""
    return replace(config, vae=replace(config.vae, scale=round(scale, 6)))


@torch.no_grad()
def measure(
    network: VideoAutoencoder, made_up: Frames, photos: Tensor
) -> tuple[dict[str, float], dict[str, tuple[Tensor, Tensor]]]:
    """Deviation of latents, PSNR on unseen clips and on photos; and frames above their copies."""
    moments = network.encode(rearrange(made_up, "b t c h w -> (b t) c h w"))
    mean, log_variance = moments.chunk(2, dim=1)
    spread = (mean.var() + log_variance.exp().mean()).sqrt()
    values = {"std": spread.item(), "noise": (log_variance / 2).exp().mean().item()}
    sheets: dict[str, tuple[Tensor, Tensor]] = {}
    for name, clips in (("clips", made_up), ("photos", photos[:, None])):
        if len(clips) == 0:
            continue
        mode = network.encode(rearrange(clips, "b t c h w -> (b t) c h w")).chunk(2, dim=1)[0]
        latents = rearrange(mode, "(b t) c h w -> b t c h w", b=len(clips))
        back = network.decode(latents).clamp(-1, 1)
        error = (back - clips).square().mean((1, 2, 3, 4)) / 4
        values[f"psnr of {name}"] = (-10 * error.log10()).mean().item()
        sheets[name] = clips[:4], back[:4]
    return values, sheets
