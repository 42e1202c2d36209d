"""A call in diffusers' manner, stage by stage: each one is a method of the pipeline, which programs
may override."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from kinora.compat.diffusers.call import Call
from kinora.compat.diffusers.noise import Noise
from kinora.compat.diffusers.photos import Given, Item, open_photos, stretched
from kinora.compat.diffusers.stages import changes, holding, network, sides
from kinora.compat.pictures import as_pictures, opened
from kinora.diffusion import euler, guided
from kinora.errors import RequestError
from kinora.finite import require_finite
from kinora.photo_cache import PhotoCache
from kinora.pixels import quantise
from kinora.types import Condition, Frames, Latents

__all__ = ["Callback", "make"]

Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
"""(pipeline, index of the step, its c_noise, tensors), called after each step; may return
{"latents": …} to go on from."""


def make(
    pipe: Any,  # noqa: ANN401
    call: Call,
    image: Given,
    generator: Generator | Sequence[Generator] | None,
    latents: Latents | None,
    callback: Callback | None,
) -> Any:  # noqa: ANN401
    """The frames of a call, in the form that it asks for."""
    cache = PhotoCache(opened)
    items = open_photos(image, cache)
    (width, height), frames = call.plan.size, call.plan.frames
    pipe.check_inputs(items, height, width)
    fitted = stretched(items, call.plan.size, cache).to(pipe.device)
    count = len(fitted) * call.videos
    noise = Noise(generator, len(fitted), count, pipe.device)
    memory = pipe.pipeline.arrange([call.plan] * count)
    conditions = _conditions(pipe, call, items, fitted, noise)
    channels = 2 * pipe.pipeline.config.vae.latent_channels
    x = pipe.prepare_latents(
        count, frames, channels, height, width, pipe.dtype, pipe.device, generator, latents
    )
    expected = (count, frames, channels // 2, *sides(pipe.pipeline.config, call.plan.size))
    if tuple(x.shape) != expected:
        raise RequestError(f"latents of shape {list(x.shape)}: must be {list(expected)}")
    apart = memory is not None and memory.apart
    x = _sample(pipe, call, conditions, x.to(pipe.device).float(), callback, apart)
    if call.output_type == "latent":
        return x
    clip = pipe.decode_latents(x, frames, call.plan.decode_chunk or frames)
    require_finite(clip, "the decoder's output", pipe.dtype, "--vae-dtype")
    return _output(pipe, call, noise, clip.transpose(1, 2))


def _conditions(
    pipe: Any,  # noqa: ANN401
    call: Call,
    items: Item | list[Item],
    fitted: Tensor,
    noise: Noise,
) -> tuple[Condition, Condition | None]:
    """With the photo, and, where there is guidance, without it."""
    (width, height), count = call.plan.size, len(fitted)
    told = (call.videos, call.guided)
    context = pipe._encode_image(items, pipe.device, *told)
    require_finite(context, "the image encoder's output", context.dtype)
    noisy = fitted + call.noise_aug * noise.pixels(height, width)
    latents = pipe._encode_vae_image(noisy, pipe.device, *told)
    require_finite(latents, "the VAE encoder's output", latents.dtype)
    numbers = (call.fps - 1, call.motion, call.noise_aug)
    ids = pipe._get_add_time_ids(*numbers, torch.float32, count, *told)
    both = Condition(latents.float()[:, None], context, ids.to(pipe.device).float())
    if not call.guided:
        return both, None
    halves = [part.chunk(2) for part in both]
    return Condition(*(half[1] for half in halves)), Condition(*(half[0] for half in halves))


def _sample(
    pipe: Any,  # noqa: ANN401
    call: Call,
    conditions: tuple[Condition, Condition | None],
    x: Latents,
    callback: Callback | None,
    apart: bool,
) -> Latents:
    """Euler's method, one step at a time, so that the callback may change the latents."""
    condition, without = conditions
    scale = pipe.guidance_scale
    denoise = guided(network(pipe.unet), condition, scale, apart=apart, without=without)
    levels = list(pairwise(call.sigmas))
    with holding(pipe, "unet"), pipe.progress_bar(total=len(levels)) as bar:
        for index, pair in enumerate(levels):
            step = next(euler(denoise, x, pair))
            x = pipe.pipeline.check_step(step, index + 1, len(levels)).x
            if callback is not None:
                timestep = pipe.scheduler.timesteps[index]
                answer = callback(pipe, index, timestep, {"latents": x})
                x = x if answer is None else answer.get("latents", x).to(x)
            bar.update()
    return x


def _output(pipe: Any, call: Call, noise: Noise, frames: Frames) -> Any:  # noqa: ANN401
    if call.output_type == "pil":
        clips = quantise(frames)
        seeds = noise.seeds * (len(clips) // len(noise.seeds))
        made = {**pipe.pipeline.recipe(call.plan), "door": "diffusers", **changes(pipe)}
        recipes = [{**made, "request": asked} for asked in call.recorded(seeds)]
        return [as_pictures(*pair) for pair in zip(clips, recipes, strict=True)]
    frames = (frames / 2 + 0.5).clamp(0, 1)
    return frames if call.output_type == "pt" else frames.permute(0, 1, 3, 4, 2).cpu().numpy()
