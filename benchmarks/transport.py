"""Whether the bundled model finds in the photo what has moved since.

    python -m benchmarks.transport [--model nano]

Adds noise to made-up clips that training never saw, denoises them in one call of the UNet, with
the photo and without it, and prints the error of each frame's latents (mean square; the latents'
variance is 1), beside that of the photo's own latents. A network that carries the photo along has
an error that hardly rises with the frame, far below that without the photo.
"""

import argparse

import torch
from torch import Tensor

import kinora
from kinora.diffusion import precondition
from kinora.pipeline import Pipeline
from kinora.synthetic import SceneConfig, make_clips
from kinora.types import Condition, Latents

MOTIONS = (0, 120, 240)
SPEED = 0.06
"""That the bundled model was trained with, which saw pictures of half its size at twice that."""
CLIPS = 8
SEED = 123_456
"""Training draws its own clips from other seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--sigma", type=float, nargs="+", default=[1.0, 3.0])
    options = parser.parse_args()
    pipe = kinora.load(options.model)
    print("| motion | σ | the photo itself | with the photo | without it, mean |")
    print("|---|---|---|---|---|")
    for motion in MOTIONS:
        clean, condition = clips(pipe, motion)
        still = by_frame(clean[:, :1], clean)
        for level in options.sigma:
            given, without = (
                by_frame(denoised(pipe, told, clean, level), clean)
                for told in (condition, condition.unconditional())
            )
            print(f"| {motion} | {level:g} | {row(still)} | {row(given)} | {without.mean():.3f} |")


@torch.no_grad()
def clips(pipe: Pipeline, motion: int) -> tuple[Latents, Condition]:
    """Latents of clips that pan along a side, all at one motion, and what goes with them."""
    config = pipe.config
    scenes = SceneConfig(
        width=config.width,
        height=config.height,
        frames=config.frames,
        max_speed=SPEED,
        motion=(motion, motion),
        static=0.0,
        layers=1,
        simple=True,
    )
    made = make_clips(scenes, CLIPS, SEED)
    mode, _ = pipe.vae.encode(made.frames.flatten(0, 1)).chunk(2, dim=1)
    latents = mode.unflatten(0, (CLIPS, config.frames))
    vector = torch.stack([made.fps - 1.0, made.motion * 1.0, torch.zeros(CLIPS)], dim=1)
    condition = Condition(latents[:, :1], pipe.image_encoder(made.frames[:, 0]), vector)
    return latents * config.vae.scale, condition


@torch.no_grad()
def denoised(pipe: Pipeline, condition: Condition, clean: Latents, level: float) -> Latents:
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((CLIPS,), level)
    return precondition(pipe.unet, condition)(clean + level * noise, sigma)


def by_frame(latents: Latents, clean: Latents) -> Tensor:
    return (latents - clean).square().mean((0, 2, 3, 4))


def row(errors: Tensor) -> str:
    return " ".join(f"{error:.3f}" for error in errors)


if __name__ == "__main__":
    main()
