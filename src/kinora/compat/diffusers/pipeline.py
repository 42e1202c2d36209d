"""diffusers' `StableVideoDiffusionPipeline`, over our pipeline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor, nn

from kinora.compat.diffusers.call import Call, Number, checked
from kinora.compat.diffusers.noise import Noise
from kinora.compat.diffusers.photos import Photos, read_photos
from kinora.compat.pictures import as_pictures, opened
from kinora.compat.place import dtype_name, place
from kinora.device import pick_device
from kinora.diffusion import euler, guided
from kinora.errors import RequestError
from kinora.loading import load
from kinora.media import Photo
from kinora.models import VideoUNet
from kinora.photo_cache import PhotoCache
from kinora.pipeline import Pipeline
from kinora.pixels import quantise
from kinora.runtime import PreparedUNet
from kinora.types import Answers, Condition, Latents, PerClip, per_clip
from kinora.weights import Hub

__all__ = ["StableVideoDiffusionPipeline", "StableVideoDiffusionPipelineOutput"]

TENSOR_INPUTS: Final = ("latents",)
"""What a callback can ask to see; diffusers documents no more."""


@dataclass(frozen=True)
class StableVideoDiffusionPipelineOutput:
    """What a call returns."""

    frames: list[list[Image.Image]] | Float[np.ndarray, "b t h w 3"] | Float[Tensor, "b t c h w"]
    """For each clip a list of PIL images; or an array or a tensor (channels third) of all clips,
    in [0, 1]; or their latents."""

    def __getitem__(self, key: str | int) -> Any:  # noqa: ANN401
        return {"frames": self.frames, 0: self.frames}[key]


Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
"""(pipeline, index of the step, its c_noise, tensors), called after each step; may return
{"latents": …} to go on from."""


class UNet(nn.Module):
    """The network with the calls that programs make on `pipe.unet`."""

    def __init__(self, network: VideoUNet | PreparedUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Latents, c_noise: PerClip, condition: Condition) -> Answers:
        return self.network(x, c_noise, condition)

    def enable_forward_chunking(self, chunk_size: int | None = None, dim: int = 0) -> None:
        """Taken, without effect."""


class StableVideoDiffusionPipeline:
    """A loaded model with diffusers' call. Its `pipeline` is Kinora's own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.unet: Callable[..., Latents] = UNet(pipeline.unet)
        """May be replaced by its compiled form."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        use_safetensors: bool | None = None,
        low_cpu_mem_usage: bool = True,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "StableVideoDiffusionPipeline":
        """Load a model, on the CPU.

        pretrained_model_name_or_path: whatever `kinora.load` takes as a source.
        torch_dtype: float32 when left out, as there.
        variant: "fp16" or None; which files are read follows from `torch_dtype` alone.
        use_safetensors: anything but False, since pickles are never read.
        low_cpu_mem_usage: taken, without effect: files are always mapped.
        revision, cache_dir, token, local_files_only: for models from the hub, as there.
        Raises CheckpointError.
        """
        if variant not in (None, "fp16"):
            raise RequestError(f"variant {variant!r}: must be fp16, or be left out")
        if use_safetensors is False:
            raise RequestError("use_safetensors False: Kinora reads safetensors only")
        dtype = dtype_name(torch_dtype or torch.float32)
        hub = Hub(revision, cache_dir, token, local_files_only)
        return cls(load(pretrained_model_name_or_path, device="cpu", dtype=dtype, hub=hub))

    @property
    def scheduler(self) -> object:
        """Not to be read nor set: a call is always sampled by Euler's method, as there by default.

        Raises RequestError.
        """
        raise RequestError(
            "pipe.scheduler: there are no scheduler objects here; a call is sampled by Euler's "
            "method on Karras' levels, and `sigmas` gives others. For other samplers call "
            "pipe.pipeline.animate(…, sampler=…)"
        )

    @scheduler.setter
    def scheduler(self, value: object) -> None:
        _ = self.scheduler

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pipeline.dtype

    def to(
        self,
        *args: str | int | torch.device | torch.dtype,
        device: str | int | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> "StableVideoDiffusionPipeline":
        """Move the networks to a device, a precision, or both; the pipeline itself is returned."""
        for value in args:
            if isinstance(value, torch.dtype):
                dtype = value
            else:
                device = value
        place(self.pipeline, device, dtype)
        return self

    def enable_model_cpu_offload(
        self, gpu_id: int | None = None, device: str | torch.device | None = None
    ) -> None:
        """Move all networks to the accelerator, if there is one: they are not taken turns with."""
        wanted = gpu_id if device is None else device
        place(self.pipeline, pick_device() if wanted is None else wanted)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: str | torch.device | None = None
    ) -> None:
        """The same."""
        self.enable_model_cpu_offload(gpu_id, device)

    def enable_attention_slicing(self, slice_size: str | int | None = "auto") -> None:
        """Taken, without effect: attention needs little memory as it is."""

    def disable_attention_slicing(self) -> None:
        """Taken, without effect."""

    def enable_xformers_memory_efficient_attention(self, attention_op: object = None) -> None:
        """Taken, without effect: attention needs little memory as it is."""

    def disable_xformers_memory_efficient_attention(self) -> None:
        """Taken, without effect."""

    def set_progress_bar_config(self, **config: object) -> None:
        """Taken, without effect: nothing is printed; `callback_on_step_end` tells of progress."""

    def maybe_free_model_hooks(self) -> None:
        """Taken, without effect."""

    @torch.no_grad()
    def __call__(
        self,
        image: Photo | Tensor | Sequence[Photo | Tensor],
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 25,
        sigmas: Sequence[Number] | None = None,
        min_guidance_scale: Number = 1.0,
        max_guidance_scale: Number = 3.0,
        fps: Number = 7,
        motion_bucket_id: Number = 127,
        noise_aug_strength: Number = 0.02,
        decode_chunk_size: int | None = None,
        num_videos_per_prompt: int | None = 1,
        generator: Generator | Sequence[Generator] | None = None,
        latents: Latents | None = None,
        output_type: str | None = "pil",
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = TENSOR_INPUTS,
        return_dict: bool = True,
        *,
        frames_to_decode_at_once: int | None = None,
    ) -> StableVideoDiffusionPipelineOutput | Any:  # noqa: ANN401
        """Make clips of photos. The arguments are diffusers' own.

        height, width, num_frames: the model's trained size and length when left out.
        sigmas: noise levels, the last one included (0 for finished clips), in place of
            `num_inference_steps`.
        decode_chunk_size: frames decoded at a time, all when left out; `frames_to_decode_at_once`
            is its older name.
        latents: unit normal noise to start from.
        return_dict: False returns the frames alone.
        Raises RequestError and MediaError.
        """
        call = checked(
            self.pipeline.config,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            sigmas=sigmas,
            guidance=(min_guidance_scale, max_guidance_scale),
            fps=fps,
            motion_bucket_id=motion_bucket_id,
            noise_aug_strength=noise_aug_strength,
            chunks=(decode_chunk_size, frames_to_decode_at_once),
            num_videos_per_prompt=num_videos_per_prompt,
            output_type=output_type,
        )
        unknown = [n for n in callback_on_step_end_tensor_inputs if n not in TENSOR_INPUTS]
        if unknown:
            raise RequestError(
                f"callback_on_step_end_tensor_inputs {unknown}: a callback can see latents only"
            )
        cache = PhotoCache(opened)
        photos = read_photos(image, call.plan.size, cache)
        count = len(photos.seen)
        noise = Noise(generator, count, count * call.videos, self.device)
        condition = self._encode(call, photos, noise, cache)
        start = self._start(call, noise, latents)
        result = self._sample(call, condition, start, callback_on_step_end)
        frames = self._output(call, noise, result)
        return StableVideoDiffusionPipelineOutput(frames) if return_dict else frames

    def _encode(self, call: Call, photos: Photos, noise: Noise, cache: PhotoCache) -> Condition:
        """One condition a clip: all clips of the first photo, then all of the second."""
        pipeline, count = self.pipeline, len(photos.seen)
        seen = [photo.to(self.device) for photo in photos.seen]
        width, height = call.plan.size
        condition = pipeline.encode(
            photos.fitted,
            fps=per_clip([call.fps] * count),
            motion=per_clip([call.motion] * count),
            noise_aug=per_clip([call.noise_aug] * count),
            pixel_noise=noise.pixels(height, width),
            context=torch.cat(cache.encode("image", seen, pipeline.embed)),
            cache=cache,
        )
        return Condition(*(part.repeat_interleave(call.videos, dim=0) for part in condition))

    def _start(self, call: Call, noise: Noise, latents: Latents | None) -> Latents:
        """Unit normal noise, from the generators or as given."""
        config, (width, height) = self.pipeline.config.vae, call.plan.size
        sides = height // config.factor, width // config.factor
        shape = (call.plan.frames, config.latent_channels, *sides)
        if latents is None:
            return noise.latents(*shape, dtype=self.dtype)
        if latents.shape != (noise.clips, *shape):
            raise RequestError(
                f"latents of shape {list(latents.shape)}: must be {[noise.clips, *shape]}"
            )
        return latents.to(self.device).float()

    def _sample(
        self, call: Call, condition: Condition, noise: Latents, callback: Callback | None
    ) -> Latents:
        """Euler's method, one step at a time, so that the callback may change the latents."""
        denoise = guided(self.unet, condition, call.scale(len(noise)).to(self.device))
        x = noise * (1 + max(call.sigmas) ** 2) ** 0.5
        for index, levels in enumerate(pairwise(call.sigmas)):
            step = next(euler(denoise, x, levels))
            x = self.pipeline.check_step(step, index + 1, len(call.sigmas) - 1).x
            if callback is not None:
                timestep = per_clip(levels[:1])[0].log() / 4
                answer = callback(self, index, timestep, {"latents": x})
                x = x if answer is None else answer.get("latents", x).to(x)
        return x

    def _output(self, call: Call, noise: Noise, latents: Latents) -> Any:  # noqa: ANN401
        if call.output_type == "latent":
            return latents
        parts = self.pipeline.decode(latents, call.plan.decode_chunk)
        if call.output_type == "pil":
            clips = np.concatenate([quantise(part) for part in parts], axis=1)
            seeds = noise.seeds * (len(clips) // len(noise.seeds))
            made = {**self.pipeline.recipe(call.plan), "door": "diffusers"}
            recipes = [{**made, "request": asked} for asked in call.recorded(seeds)]
            return [as_pictures(*pair) for pair in zip(clips, recipes, strict=True)]
        frames = torch.cat([(part / 2 + 0.5).clamp(0, 1) for part in parts], dim=1)
        return frames if call.output_type == "pt" else frames.permute(0, 1, 3, 4, 2).cpu().numpy()
