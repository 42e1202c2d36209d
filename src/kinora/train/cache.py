"""Clips as the UNet sees them, encoded once: latents, the photo's latent, a small picture."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kinora.config import ModelConfig
from kinora.models import VideoAutoencoder
from kinora.pixels import from_bytes, to_bytes
from kinora.runtime import fp32_computed_as
from kinora.synthetic import SceneConfig
from kinora.train.chance import draws
from kinora.train.data import shuffled
from kinora.train.loop import Stop
from kinora.train.progress import Journal, Progress
from kinora.train.render import rendered
from kinora.train.settings import UNetTraining
from kinora.train.shards import SHARD, missing_shards, read_shards, write_shards
from kinora.types import Condition, Images, Latents, PerClip

__all__ = ["Batch", "draw_batch", "encode_clips", "fill_cache", "unet_scenes"]

PICTURE = 64
"""Longest side of the first frame kept for the image encoder."""
ENCODED = 64
"""Frames encoded at once."""


class Batch(NamedTuple):
    """The clips of one step."""

    clean: Latents
    """A draw from the posterior, scaled."""
    picture: Images
    """The first frame, for the image encoder."""
    image: Latents
    """The first frame's latent [b, 1, c, h, w], with its noise, unscaled."""
    vector: Tensor
    """(fps − 1, motion, noise_aug) [b, 3]."""
    flow: Float[Tensor, "b t 2 y x"]
    """How far (right, down) what is seen has come since frame 0, in latents."""

    def condition(self, context: Tensor, keep_image: PerClip, keep_context: PerClip) -> Condition:
        """What the network is told; where `keep_…` is 0, that part is zeros, as in guidance."""
        return Condition(
            image=self.image * keep_image[:, None, None, None, None],
            context=context * keep_context[:, None, None],
            vector=self.vector,
        )


def unet_scenes(settings: UNetTraining) -> SceneConfig:
    """What the UNet's clips show."""
    return replace(
        settings.scenes, width=settings.width, height=settings.height, frames=settings.frames
    )


def fill_cache(
    settings: UNetTraining,
    folder: Path,
    vae: VideoAutoencoder,
    fingerprint: str,
    journal: Journal,
    stop: Stop,
) -> dict[str, Tensor] | None:
    """Render and encode the clips, or those still missing, and load them; None when time ran out.

    fingerprint: of the autoencoder, whose latents these are.
    """
    device = next(vae.parameters()).device
    recipe = {
        "scenes": asdict(unet_scenes(settings)),
        "seed": settings.seed,
        "augmentation": [settings.aug_mean, settings.aug_std],
        "vae": fingerprint,
        "flow": True,
    }
    steps = -(-settings.clips // SHARD)
    missing = missing_shards(folder, settings.clips, recipe)
    scenes = unet_scenes(settings)
    made = rendered(scenes, "clips", settings.seed, missing, device, settings.workers)
    shards = _encoded(settings, vae, made)
    for done, _ in enumerate(write_shards(folder, shards, stop.now), steps - len(missing) + 1):
        journal(Progress(stage="cache", step=done, steps=steps))
    return None if stop.now() else read_shards(folder, settings.clips)


def _encoded(
    settings: UNetTraining, vae: VideoAutoencoder, made: Iterable[tuple[int, dict[str, Tensor]]]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    for k, clips in made:
        generator = draws("augmentation", settings.seed, k)
        ln_aug = settings.aug_mean + settings.aug_std * torch.randn(SHARD, generator=generator)
        vector = torch.stack([clips["fps"] - 1, clips["motion"], ln_aug.exp()], dim=1)
        encoded = encode_clips(vae, clips["frames"], ln_aug.exp(), generator)
        yield k, {**encoded, "vector": vector, "flow": clips["flow"].half()}


@torch.no_grad()
def encode_clips(
    vae: VideoAutoencoder, frames: Tensor, noise_aug: PerClip, generator: torch.Generator
) -> dict[str, Tensor]:
    """What is kept of clips uint8 [n, t, 3, h, w]: posterior `mean` and `std`, `image`, `picture`.

    image: mode of the first frame plus noise of deviation `noise_aug` in pixels; not scaled.
    """
    device = next(vae.parameters()).device
    first = from_bytes(frames[:, 0])
    noise = torch.randn(first.shape, generator=generator)
    noisy = first + noise_aug[:, None, None, None] * noise
    b, t = frames.shape[:2]
    pieces = torch.split(rearrange(frames, "b t c h w -> (b t) c h w"), ENCODED)
    with fp32_computed_as("ieee", device):
        moments = torch.cat([vae.encode(from_bytes(piece.to(device))) for piece in pieces])
        modes = [
            vae.encode(piece.to(device)).chunk(2, dim=1)[0] for piece in torch.split(noisy, ENCODED)
        ]
    mean, log_variance = rearrange(moments, "(b t) c h w -> b t c h w", b=b, t=t).chunk(2, dim=2)
    return {
        "mean": mean.half().cpu(),
        "std": (log_variance / 2).exp().half().cpu(),
        "image": torch.cat(modes)[:, None].half().cpu(),
        "picture": to_bytes(shrink(first)),
    }


def shrink(images: Images) -> Images:
    """Pictures no larger than the image encoder needs here."""
    factor = min(1.0, PICTURE / max(images.shape[-2:]))
    size = [round(side * factor) for side in images.shape[-2:]]
    if factor == 1.0:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True)


def draw_batch(
    settings: UNetTraining,
    config: ModelConfig,
    cache: dict[str, Tensor],
    step: int,
    device: torch.device,
) -> Batch:
    """The clips of one step, a function of seed and step."""
    index = shuffled("order", settings.seed, step, settings.batch, settings.clips)
    taken = {name: tensor[index] for name, tensor in cache.items()}
    if settings.crop is not None:
        taken |= _cropped(taken, settings.crop // config.vae.factor, settings.seed, step)
    taken = {name: tensor.to(device) for name, tensor in taken.items()}
    mean = taken["mean"].float()
    noise = torch.randn(mean.shape, generator=draws("posterior", settings.seed, step)).to(device)
    return Batch(
        clean=config.vae.scale * (mean + taken["std"].float() * noise),
        picture=from_bytes(taken["picture"]),
        image=taken["image"].float(),
        vector=taken["vector"].float(),
        flow=taken["flow"].float() * (settings.width // config.vae.factor),
    )


def _cropped(taken: dict[str, Tensor], side: int, seed: int, step: int) -> dict[str, Tensor]:
    """The latents of clips within a random square of each, the same in all its frames."""
    generator = draws("crop", seed, step)
    n, *_, height, width = taken["mean"].shape
    tops, lefts = (
        torch.randint(length - side + 1, (n,), generator=generator) for length in (height, width)
    )
    squares = [
        (slice(int(top), int(top) + side), slice(int(left), int(left) + side))
        for top, left in zip(tops, lefts, strict=True)
    ]
    out = {
        name: torch.stack(
            [clip[..., y, x] for clip, (y, x) in zip(taken[name], squares, strict=True)]
        )
        for name in ("mean", "std", "image")
    }
    flow = F.interpolate(taken["flow"].float().flatten(1, 2), (height, width), mode="bilinear")
    flow = torch.stack([f[:, y, x] for f, (y, x) in zip(flow, squares, strict=True)])
    return out | {"flow": flow.unflatten(1, taken["flow"].shape[1:3])}
