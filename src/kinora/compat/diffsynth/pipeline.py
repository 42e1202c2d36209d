"""DiffSynth's `SVDVideoPipeline`, over our pipeline."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kinora.compat.diffsynth.call import (
    Call,
    Number,
    Video,
    checked,
    fitted,
    video_frames,
)
from kinora.compat.diffsynth.latents import (
    Keyframes,
    decode_overlapping,
    encode_frames,
    equalise,
)
from kinora.compat.diffsynth.manager import ModelManager
from kinora.compat.pictures import as_pictures
from kinora.compat.place import place
from kinora.diffusion import euler, guided
from kinora.errors import CheckpointError, RequestError
from kinora.media import Photo
from kinora.pipeline import Pipeline
from kinora.pixels import quantise, to_pixels
from kinora.types import Condition, Latents, per_clip

__all__ = ["SVDVideoPipeline"]

IGNORED: Final = (
    *("scheduler", "image_encoder", "unet", "vae_encoder", "vae_decoder", "fetch_models"),
    *("encode_image_with_clip", "encode_image_with_vae", "encode_video_with_vae", "tensor2video"),
    *("calculate_noise_pred", "post_process_latents", "preprocess_image", "preprocess_images"),
    *("vae_output_to_image", "vae_output_to_video", "check_resize_height_width", "generate_noise"),
    *("height_division_factor", "width_division_factor", "torch_dtype", "cpu_offload"),
    *("model_names", "load_models_to_device"),
)
"""What DiffSynth's own call goes by, and this one doesn't."""


@runtime_checkable
class ProgressBar(Protocol):
    """Something that shows how much is done, such as Streamlit's progress bar."""

    def progress(self, value: float, /) -> object: ...


class SVDVideoPipeline:
    """A loaded model with DiffSynth's call. Its `pipeline` is Kinora's own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            _refuse(f"class {cls.__name__} overrides", name)

    def __setattr__(self, name: str, value: object) -> None:
        _refuse("pipe.", name)
        super().__setattr__(name, value)

    @staticmethod
    def from_model_manager(model_manager: ModelManager) -> "SVDVideoPipeline":
        """Take the manager's model. Raises CheckpointError when it has none."""
        if model_manager.pipeline is None:
            raise CheckpointError(
                "the model manager holds no model: give it a model_id_list or file_path_list, or "
                "call its load_models"
            )
        return SVDVideoPipeline(model_manager.pipeline)

    def to(self, device: str | torch.device) -> "SVDVideoPipeline":
        """Move the networks; the pipeline itself is returned."""
        place(self.pipeline, device)
        return self

    def enable_cpu_offload(self) -> None:
        """Have each network on the device only while it works (on a CPU, as memory demands)."""
        self.pipeline.offload({"turns": True}, self.pipeline.device)

    @torch.no_grad()
    def __call__(
        self,
        input_image: Photo | None = None,
        input_video: Video | None = None,
        mask_frames: Video = (),
        mask_frame_ids: Sequence[int] = (),
        min_cfg_scale: Number = 1.0,
        max_cfg_scale: Number = 3.0,
        denoising_strength: Number = 1.0,
        num_frames: int = 25,
        height: int = 576,
        width: int = 1024,
        fps: Number = 7,
        motion_bucket_id: Number = 127,
        noise_aug_strength: Number = 0.02,
        num_inference_steps: int = 20,
        post_normalize: bool = True,
        contrast_enhance_scale: Number = 1.2,
        seed: int | None = None,
        progress_bar_cmd: Callable[[Any], Iterable[Any]] | None = None,
        progress_bar_st: ProgressBar | None = None,
    ) -> list[Image.Image]:
        """Make a clip of a photo. The arguments and their defaults are DiffSynth's own.

        input_image: cropped where it is not of the clip's shape.
        input_video: `num_frames` frames to start from where `denoising_strength` is below 1.
        mask_frames, mask_frame_ids: frames that are given, and their places in the clip.
        min_cfg_scale, max_cfg_scale: guidance of the first and of the last frame.
        height, width: rounded up, with a warning, to what the model can make.
        post_normalize: whether each frame's latents get the clip's mean and deviation.
        contrast_enhance_scale: what the latents are multiplied by before they are decoded.
        seed: left out, torch's global generator is used, as there.
        progress_bar_cmd: wraps the steps as they are iterated over, such as tqdm.
        Raises RequestError and MediaError.
        """
        if input_image is None:
            raise RequestError("input_image is missing: name the photo to animate")
        call = checked(
            self.pipeline.config,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            denoising_strength=denoising_strength,
            cfg_scale=(min_cfg_scale, max_cfg_scale),
            fps=fps,
            motion_bucket_id=motion_bucket_id,
            noise_aug_strength=noise_aug_strength,
            contrast_enhance_scale=contrast_enhance_scale,
        )
        guided_plan = replace(call.plan, guidance=call.cfg_scale)
        memory = self.pipeline.arrange([guided_plan])
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        noise = self._noise(call, generator)
        keyframes = self._keyframes(call, mask_frames, mask_frame_ids, noise)
        start = self._start(call, input_video, noise)
        condition = self._encode(call, fitted(input_image, call.plan.size), generator)

        unet = self.pipeline.in_own_precision(self.pipeline.unet)
        scale, apart = call.guidance.to(self.pipeline.device), memory is not None and memory.apart
        denoise = guided(unet, condition, scale, apart=apart)
        steps = list(enumerate(pairwise(call.sigmas)))
        x = start
        with self.pipeline.residency.hold("unet"):
            for index, levels in steps if progress_bar_cmd is None else progress_bar_cmd(steps):
                step = next(euler(denoise, keyframes.put_back(x, levels[0]), levels))
                x = self.pipeline.check_step(step, index + 1, len(steps)).x
                if progress_bar_st is not None:
                    progress_bar_st.progress(index / len(steps))

        latents = (equalise(x) if post_normalize else x) * contrast_enhance_scale
        frames = quantise(decode_overlapping(self.pipeline, latents))[0]
        asked = {**call.recorded(seed), "post_normalize": post_normalize}
        made = {**self.pipeline.recipe(call.plan), "door": "diffsynth", "request": asked}
        return as_pictures(frames, made)

    def _noise(self, call: Call, generator: torch.Generator | None) -> Tensor:
        """Unit normal, one value a latent, on the CPU in fp32."""
        config, (width, height) = self.pipeline.config.vae, call.plan.size
        sides = height // config.factor, width // config.factor
        shape = (call.plan.frames, config.latent_channels, *sides)
        return _normal(shape, generator).to(self.pipeline.device)

    def _keyframes(self, call: Call, frames: Video, ids: Sequence[int], noise: Tensor) -> Keyframes:
        total = call.plan.frames
        outside = [i for i in ids if not -total <= i < total]
        if outside:
            raise RequestError(
                f"mask_frame_ids {outside}: a clip of {total} frames has places 0 to {total - 1}"
            )
        if not ids:
            return Keyframes([], noise[:0], noise)
        given = video_frames("mask_frames", frames, call.plan.size, len(ids))
        return Keyframes([i % total for i in ids], encode_frames(self.pipeline, given), noise)

    def _start(self, call: Call, video: Video | None, noise: Tensor) -> Latents:
        """Pure noise, or the video with as much noise as the first level has."""
        sigma = call.sigmas[0]
        if call.strength == 1:
            return noise[None] * (1 + sigma**2) ** 0.5
        frames = video_frames("input_video", video, call.plan.size, call.plan.frames)
        return (encode_frames(self.pipeline, frames) + sigma * noise)[None]

    def _encode(
        self, call: Call, photo: Image.Image, generator: torch.Generator | None
    ) -> Condition:
        width, height = call.plan.size
        return self.pipeline.encode(
            to_pixels([np.asarray(photo)]),
            fps=per_clip([call.fps]),
            motion=per_clip([call.motion]),
            noise_aug=per_clip([call.noise_aug]),
            pixel_noise=_normal((1, 3, height, width), generator),
        )


def _refuse(what: str, name: str) -> None:
    """Raise RequestError where an assignment or an override would be ignored."""
    if name in IGNORED:
        raise RequestError(
            f"{what} {name}: a call never asks for it here. Change weights by converting a "
            "checkpoint (kinora convert) and loading that; for other samplers call "
            "pipe.pipeline.animate(…, sampler=…)"
        )


def _normal(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
