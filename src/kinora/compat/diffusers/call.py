"""What a call in diffusers' manner asks for, checked."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from jaxtyping import Float
from torch import Tensor

from kinora.config import ModelConfig
from kinora.diffusion import guidance_ramp, karras
from kinora.errors import RequestError
from kinora.request import Plan, Request

__all__ = ["OUTPUT_TYPES", "Call", "Number", "checked"]

OUTPUT_TYPES: Final = ("pil", "np", "pt", "latent")


Number = int | float
"""Programs pass either for most values."""


class Call(NamedTuple):
    """A call with nothing left open."""

    plan: Plan
    """Its frames, size, steps and chunk; the rest of it is not used."""
    sigmas: list[float]
    guidance: tuple[Number, Number]
    fps: Number
    motion: Number
    noise_aug: Number
    videos: int
    """Clips of each photo."""
    output_type: str

    @property
    def guided(self) -> bool:
        """Whether any frame has guidance above 1; else diffusers leaves it out."""
        return max(self.guidance) > 1

    def scale(self, clips: int) -> Float[Tensor, "b t"]:
        """The guidance of each frame."""
        ends = self.guidance if self.guided else (1, 1)
        return guidance_ramp(*ends, self.plan.frames).repeat(clips, 1)

    def recorded(self, seeds: Sequence[int | None]) -> list[dict[str, object]]:
        """For each clip, what to repeat it with, under Kinora's names."""
        values = {
            **self.plan.to_dict(),
            "fps": self.fps,
            "motion": self.motion,
            "noise_aug": self.noise_aug,
            "guidance": self.guidance,
            "sigmas": self.sigmas,
        }
        return [{**values, "seed": seed} for seed in seeds]


def checked(
    config: ModelConfig,
    *,
    height: int | None,
    width: int | None,
    num_frames: int | None,
    num_inference_steps: int,
    sigmas: Sequence[Number] | None,
    guidance: tuple[Number, Number],
    fps: Number,
    motion_bucket_id: Number,
    noise_aug_strength: Number,
    chunks: tuple[int | None, int | None],
    num_videos_per_prompt: int | None,
    output_type: str | None,
) -> Call:
    """Fill in what is left out and check the rest.

    chunks: `decode_chunk_size` and its older name.
    Raises RequestError for what can't be meant; values outside those that the model was trained on
    pass, as they do in diffusers.
    """
    chunk, older = chunks
    if chunk is not None and older is not None and chunk != older:
        raise RequestError(
            f"decode_chunk_size {chunk} and frames_to_decode_at_once {older}: these are two names "
            "of one thing; give one of them"
        )
    frames = config.frames if num_frames is None else num_frames
    levels = None if sigmas is None else _levels(sigmas)
    request = Request(
        image=None,
        frames=frames,
        size=(width or config.width, height or config.height),
        steps=num_inference_steps if levels is None else len(levels) - 1,
        fit="stretch",
        decode_chunk=_chunk(chunk if older is None else older, frames),
    )
    for name, value in {
        "guidance scale": guidance[0] + guidance[1],
        "fps": fps,
        "motion_bucket_id": motion_bucket_id,
        "noise_aug_strength": noise_aug_strength,
    }.items():
        if not math.isfinite(value):
            raise RequestError(f"{name} {value}: must be a finite number")
    videos = 1 if num_videos_per_prompt is None else num_videos_per_prompt
    if videos < 1:
        raise RequestError(f"num_videos_per_prompt {videos}: must be at least 1")
    if output_type not in OUTPUT_TYPES:
        raise RequestError(f"output_type {output_type!r}: must be one of {', '.join(OUTPUT_TYPES)}")
    plan = request.resolved(config, (1, 1))
    if max(guidance) <= 1:  # one half, for the memory plan
        plan = replace(plan, guidance=(1.0, 1.0))
    return Call(
        plan=plan,
        sigmas=_karras(config, plan.steps) if levels is None else levels,
        guidance=guidance,
        fps=fps,
        motion=motion_bucket_id,
        noise_aug=noise_aug_strength,
        videos=videos,
        output_type=output_type,
    )


def _karras(config: ModelConfig, steps: int) -> list[float]:
    return karras(steps, config.sigma_min, config.sigma_max, config.rho)


def _chunk(chunk: int | None, frames: int) -> int | None:
    return chunk if chunk is None else min(chunk, frames)


def _levels(sigmas: Sequence[Number]) -> list[float]:
    levels = [float(sigma) for sigma in sigmas]
    if len(levels) < 2 or not all(0 < s < math.inf for s in levels[:-1]) or not levels[-1] >= 0:
        raise RequestError(
            f"sigmas {levels}: must be at least two noise levels above 0, of which the last may "
            "be 0 (and is, for a finished clip)"
        )
    return levels
