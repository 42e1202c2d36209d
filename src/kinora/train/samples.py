"""Sample clips while training: what the averaged weights make of pictures never learnt from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kinora.pipeline import Pipeline
from kinora.train.cache import unet_scenes
from kinora.train.chance import draws
from kinora.train.data import held_out, read_photos
from kinora.train.settings import UNetTraining
from kinora.train.sheet import write_sheet
from kinora.types import Frames, Images

__all__ = ["make_sampling", "sample_clip"]

MADE_UP = 2
MOTIONS = (30.0, 200.0)


def make_sampling(
    settings: UNetTraining, pipeline: Pipeline, folder: Path
) -> Callable[[int], None]:
    """A function of the step that writes a contact sheet of that number.

    Rows: unseen made-up pictures, then the photos, each with little motion and with much. The
    first column is the picture itself.
    """
    scenes = replace(unet_scenes(settings), frames=1)
    made_up = held_out(scenes, MADE_UP, settings.seed).frames[:, 0]
    photos = read_photos(settings.photos, settings.width, settings.height)
    images = torch.cat([made_up, photos])

    def sample(step: int) -> None:
        rows: list[Frames] = []
        for motion in MOTIONS:
            clips = [
                sample_clip(pipeline, image[None], motion, settings.sample_steps)
                for image in images
            ]
            rows.append(torch.cat([images[:, None], torch.cat(clips)], dim=1))
        write_sheet(folder / f"{step:07}.png", rows)

    return sample


def sample_clip(pipeline: Pipeline, image: Images, motion: float, steps: int) -> Frames:
    """A clip of one picture with the model's own guidance, fps and noise_aug, and a fixed seed."""
    config, generator = pipeline.config, draws("sample", 0)

    def number(value: float) -> Tensor:
        return torch.tensor([value])

    condition = pipeline.encode(
        image,
        fps=number(float(config.fps)),
        motion=number(motion),
        noise_aug=number(config.noise_aug),
        pixel_noise=torch.randn(image.shape, generator=generator),
    )
    shape = (1, config.frames, *condition.image.shape[2:])
    latents = torch.randn(shape, generator=generator)
    ramp = torch.linspace(*config.guidance, config.frames)[None]
    for step in pipeline.sample(condition, latents, steps=steps, guidance=ramp):
        latents = step.x
    return torch.cat(list(pipeline.decode(latents)), dim=1).clamp(-1, 1).cpu()
