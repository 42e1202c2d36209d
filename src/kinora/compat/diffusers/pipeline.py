"""diffusers' `StableVideoDiffusionPipeline`, over our pipeline."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

from kinora.compat.diffusers.call import Number, checked
from kinora.compat.diffusers.making import Callback, make
from kinora.compat.diffusers.networks import VAE, ImageEncoder, UNet
from kinora.compat.diffusers.noise import Noise
from kinora.compat.diffusers.photos import Given, Item, unresized
from kinora.compat.diffusers.running import NoBar, Running
from kinora.compat.diffusers.stages import (
    decode,
    embed,
    encode,
    foreign,
    per_video,
    sides,
)
from kinora.compat.diffusers.surface import COMPONENTS, Levels, check_component, refuse
from kinora.compat.place import dtype_name, offload, place
from kinora.errors import RequestError
from kinora.loading import load
from kinora.pipeline import Pipeline
from kinora.runtime.plan import NO_MEASURE
from kinora.types import Latents, per_clip
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


class StableVideoDiffusionPipeline:
    """A loaded model with diffusers' call. Its `pipeline` is Kinora's own.

    `unet`, `vae` and `image_encoder` have diffusers' calls and may be replaced by others that have
    them. A subclass may override what diffusers' own call calls (see `surface.METHODS`); overriding
    or setting anything else that a call there goes by is refused.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.unet: Any = UNet(pipeline)
        self.vae: Any = VAE(pipeline)
        self.image_encoder: Any = ImageEncoder(pipeline)
        self._running = Running(pipeline.config)

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init_subclass__(**kwargs)
        for name in vars(cls):
            refuse(f"class {cls.__name__} overrides", name)

    def __setattr__(self, name: str, value: object) -> None:
        refuse("pipe.", name)
        if name in COMPONENTS:
            check_component(name, value)
        super().__setattr__(name, value)

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
    def scheduler(self) -> Levels:
        """The noise levels of the running call, to be read only."""
        return self._running.levels

    @property
    def guidance_scale(self) -> Float[Tensor, "b t"]:
        """Of each frame, in the running call."""
        return self._running.scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return bool((self.guidance_scale > 1).any())

    @property
    def num_timesteps(self) -> int:
        return len(self.scheduler.timesteps)

    @property
    def vae_scale_factor(self) -> int:
        return self.pipeline.config.vae.factor

    @property
    def components(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in COMPONENTS}

    @property
    def _execution_device(self) -> torch.device:
        return self.device

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
        for module in foreign(self.components):
            module.to(device=device, dtype=dtype)
        return self

    def enable_model_cpu_offload(
        self, gpu_id: int | None = None, device: str | torch.device | None = None
    ) -> None:
        """Work on the accelerator, if there is one, where each network is only while it works.

        Without one, or with "cpu", the weights are where they are to be already, and memory is
        planned as ever.
        """
        offload(self.pipeline, gpu_id if device is None else device, {"turns": True})

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: str | torch.device | None = None
    ) -> None:
        """The same, and of the UNet only two blocks are there at a time."""
        measures = {"turns": True, "streaming": True}
        offload(self.pipeline, gpu_id if device is None else device, measures)

    def remove_all_hooks(self) -> None:
        """Undo both."""
        self.pipeline.residency.least = NO_MEASURE

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
        """Called at the end of a call. Does nothing: networks have released their weights."""

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:  # noqa: ANN401
        """What is told of each step: nothing, unless overridden."""
        return NoBar() if iterable is None else iterable

    @torch.no_grad()
    def __call__(
        self,
        image: Given,
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
        with self._running.call(call, self.device):
            frames = make(self, call, image, generator, latents, callback_on_step_end)
            self.maybe_free_model_hooks()
        return StableVideoDiffusionPipelineOutput(frames) if return_dict else frames

    def check_inputs(self, image: Item | list[Item], height: int, width: int) -> None:
        """For subclasses: the call has checked its arguments already."""

    def _encode_image(
        self,
        image: Item | list[Item],
        device: str | torch.device,
        num_videos_per_prompt: int,
        do_classifier_free_guidance: bool,
    ) -> Float[Tensor, "n 1 d"]:
        """Embeddings: all clips of the first photo, then of the second; with guidance, zeros for as
        many clips come first."""
        embeddings = embed(self, unresized(image))
        return per_video(embeddings, num_videos_per_prompt, do_classifier_free_guidance)

    def _encode_vae_image(
        self,
        image: Float[Tensor, "b 3 height width"],
        device: str | torch.device,
        num_videos_per_prompt: int,
        do_classifier_free_guidance: bool,
    ) -> Float[Tensor, "n c h w"]:
        """The photos' latents, not scaled, in the same order."""
        latents = encode(self, image)
        return per_video(latents, num_videos_per_prompt, do_classifier_free_guidance)

    def _get_add_time_ids(
        self,
        fps: Number,
        motion_bucket_id: Number,
        noise_aug_strength: Number,
        dtype: torch.dtype,
        batch_size: int,
        num_videos_per_prompt: int,
        do_classifier_free_guidance: bool,
    ) -> Float[Tensor, "n 3"]:
        """The numbers that the UNet is told, for each clip; fps as the model is told it."""
        ids = per_clip([fps, motion_bucket_id, noise_aug_strength])[None].to(dtype)
        rows = batch_size * num_videos_per_prompt * (2 if do_classifier_free_guidance else 1)
        return ids.repeat(rows, 1)

    def prepare_latents(
        self,
        batch_size: int,
        num_frames: int,
        num_channels_latents: int,
        height: int,
        width: int,
        dtype: torch.dtype,
        device: str | torch.device,
        generator: Generator | Sequence[Generator] | None,
        latents: Latents | None = None,
    ) -> Latents:
        """Noise of the first level: unit normal from the generators, or as given, times its σ."""
        shape = (num_frames, num_channels_latents // 2)
        shape += sides(self.pipeline.config, (width, height))
        if latents is None:
            noise = Noise(generator, batch_size, batch_size, torch.device(device))
            latents = noise.latents(*shape, dtype=dtype)
        return latents.to(device).float() * self.scheduler.init_noise_sigma

    def decode_latents(
        self, latents: Latents, num_frames: int, decode_chunk_size: int = 14
    ) -> Float[Tensor, "b 3 t height width"]:
        """Frames in fp32, not clamped; chunks never cross from clip to clip."""
        return decode(self, latents, decode_chunk_size).transpose(1, 2)
