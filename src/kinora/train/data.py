"""Frames to train and to measure on."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from kinora.media import fit, load_photo
from kinora.pixels import from_bytes
from kinora.synthetic import ClipBatch, SceneConfig, make_clips
from kinora.train.chance import draws, seed_of
from kinora.train.settings import VAETraining
from kinora.types import Frames, Images

__all__ = [
    "crops",
    "held_out",
    "pool_scenes",
    "read_photos",
    "shuffled",
]


def shuffled(purpose: str, seed: int, step: int, batch: int, total: int) -> Tensor:
    """Which of `total` items a step takes: each once in an epoch, in an order of the epoch's own.

    What is left over at the end of an epoch, less than a batch, is not seen in it.
    """
    epoch, index = divmod(step, total // batch)
    order = torch.randperm(total, generator=draws(purpose, seed, epoch))
    return order[index * batch : (index + 1) * batch]


def crops(settings: VAETraining, pool: Tensor, step: int) -> Frames:
    """The clips of one step, cropped, flipped, recoloured.

    pool: rendered clips, uint8 [n, t, 3, h, w].
    """
    generator = draws("crops", settings.seed, step)
    room = pool.shape[-1] - settings.size + 1
    taken: list[Tensor] = []
    for _ in range(settings.clips):
        index, y, x = (_draw(n, generator) for n in (len(pool), room, room))
        crop = pool[index, ..., y : y + settings.size, x : x + settings.size]
        taken.append(_vary(crop, generator))
    return from_bytes(torch.stack(taken))


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _vary(clip: Tensor, generator: torch.Generator) -> Tensor:
    """One of the eight ways to turn and mirror a clip, and of the six orders of its colours."""
    clip = clip[:, torch.randperm(3, generator=generator)]
    clip = clip.flip(3) if _draw(2, generator) else clip
    clip = clip.flip(2) if _draw(2, generator) else clip
    return clip.transpose(2, 3) if _draw(2, generator) else clip


def held_out(scenes: SceneConfig, clips: int, seed: int) -> ClipBatch:
    """Clips that no step of training sees; the same on every device."""
    return make_clips(scenes, clips, seed_of("held out", seed))


def pool_scenes(settings: VAETraining) -> SceneConfig:
    """What the autoencoder's pool shows."""
    size = settings.pool_size
    return replace(settings.scenes, width=size, height=size, frames=settings.frames)


def read_photos(paths: Sequence[str], width: int, height: int) -> Images:
    """Photos fitted to a size, in [-1, 1]; none gives an empty batch.

    Raises MediaError when one can't be read.
    """
    photos = [torch.from_numpy(fit(load_photo(p), (width, height), "crop")) for p in paths]
    if not photos:
        return torch.zeros(0, 3, height, width)
    return from_bytes(torch.stack(photos).permute(0, 3, 1, 2).contiguous())
