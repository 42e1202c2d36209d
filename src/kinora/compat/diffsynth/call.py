"""What a call in DiffSynth's manner asks for, checked."""

import math
import warnings
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from kinora.compat.pictures import opened
from kinora.config import ModelConfig
from kinora.diffusion import guidance_ramp, karras
from kinora.errors import KinoraWarning, RequestError
from kinora.media import Photo, fit
from kinora.request import Plan, Request

__all__ = ["Call", "Number", "Video", "checked", "fitted", "video_frames"]

Number = int | float
"""Programs pass either for most values."""


@runtime_checkable
class Video(Protocol):
    """A list of PIL images, or what behaves like one, such as `VideoData`."""

    def __len__(self) -> int: ...
    def __getitem__(self, item: int, /) -> Photo: ...


class Call(NamedTuple):
    """A call with nothing left open."""

    plan: Plan
    """Its frames, size and steps; the rest of it is not used."""
    sigmas: list[float]
    strength: Number
    cfg_scale: tuple[Number, Number]
    fps: Number
    motion: Number
    noise_aug: Number
    contrast: Number

    @property
    def guidance(self) -> Float[Tensor, "1 t"]:
        """The scale of each frame."""
        return guidance_ramp(*self.cfg_scale, self.plan.frames)[None]

    def recorded(self, seed: int | None) -> dict[str, object]:
        """What to repeat it with, under Kinora's names where there is one."""
        return {
            **self.plan.to_dict(),
            "fps": self.fps,
            "motion": self.motion,
            "noise_aug": self.noise_aug,
            "guidance": self.cfg_scale,
            "denoising_strength": self.strength,
            "contrast_enhance_scale": self.contrast,
            "seed": seed,
        }


def checked(
    config: ModelConfig,
    *,
    height: int,
    width: int,
    num_frames: int,
    num_inference_steps: int,
    denoising_strength: Number,
    cfg_scale: tuple[Number, Number],
    fps: Number,
    motion_bucket_id: Number,
    noise_aug_strength: Number,
    contrast_enhance_scale: Number,
) -> Call:
    """Round the size up and check the rest.

    Raises RequestError for what can't be meant; values outside those that the model was trained on
    pass, as they do in DiffSynth.
    """
    size = _rounded_up(config, height, width)
    request = Request(image=None, frames=num_frames, size=size, steps=num_inference_steps)
    for name, value in {
        "cfg_scale": cfg_scale[0] + cfg_scale[1],
        "fps": fps,
        "motion_bucket_id": motion_bucket_id,
        "noise_aug_strength": noise_aug_strength,
        "contrast_enhance_scale": contrast_enhance_scale,
    }.items():
        if not math.isfinite(value):
            raise RequestError(f"{name} {value}: must be a finite number")
    return Call(
        plan=request.resolved(config, size),
        sigmas=_levels(config, num_inference_steps, denoising_strength),
        strength=denoising_strength,
        cfg_scale=cfg_scale,
        fps=fps,
        motion=motion_bucket_id,
        noise_aug=noise_aug_strength,
        contrast=contrast_enhance_scale,
    )


def fitted(photo: Photo, size: tuple[int, int]) -> Image.Image:
    """A picture of this size; one of another shape is cropped."""
    image = opened(photo)
    return image if image.size == size else Image.fromarray(fit(image, size, "crop"))


def video_frames(
    name: str, video: Video | None, size: tuple[int, int], count: int
) -> list[Image.Image]:
    """The frames of a video argument. Raises RequestError unless there are `count`."""
    length = 0 if video is None else len(video)
    if video is None or length != count:
        raise RequestError(f"{name}: {length} frames where {count} are needed")
    return [fitted(video[index], size) for index in range(length)]


def _rounded_up(config: ModelConfig, height: int, width: int) -> tuple[int, int]:
    """Width and height that the model can make, the next larger ones as in DiffSynth."""
    multiple = config.size_multiple
    size = (-(-width // multiple) * multiple, -(-height // multiple) * multiple)
    if size != (width, height):
        warnings.warn(
            f"size {width}x{height}: made {size[0]}x{size[1]}, since both must be multiples of "
            f"{multiple} for {config.name}",
            KinoraWarning,
            stacklevel=4,
        )
    return size


def _levels(config: ModelConfig, steps: int, strength: Number) -> list[float]:
    """Noise levels: the last part, `strength` long, of a schedule in σ^(1/ρ), in `steps` steps."""
    if not 0 <= strength <= 1:
        raise RequestError(f"denoising_strength {strength}: must be a number from 0 to 1")
    low, high = (s ** (1 / config.rho) for s in (config.sigma_min, config.sigma_max))
    start = (low + strength * (high - low)) ** config.rho
    return karras(steps, config.sigma_min, max(start, config.sigma_min), config.rho)
