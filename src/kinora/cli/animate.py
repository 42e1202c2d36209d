"""`kinora animate`: from photos to clips."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kinora.cli import options
from kinora.cli.chosen import Chosen
from kinora.cli.display import on_terminal
from kinora.cli.job import Job, Printing
from kinora.cli.place import find_photos, place_clips
from kinora.cli.say import remark
from kinora.cli.session import out_of_memory
from kinora.config import known_config
from kinora.request import Request, draw_seed
from kinora.spelled import parse_count, parse_fields

if TYPE_CHECKING:
    from kinora.photo_cache import PhotoCache

__all__ = ["animate"]

LESS_MEMORY = (
    "lower --size or --frames, decode fewer frames at a time (--decode-chunk 4), "
    "or use --dtype float16"
)


def animate(
    photos: options.Photos,
    output: options.Output = None,
    model: options.Model = "nano",
    frames: options.Frames = None,
    size: options.Size = None,
    steps: options.Steps = None,
    fps: options.Fps = None,
    motion: options.Motion = None,
    noise_aug: options.NoiseAug = None,
    guidance: options.Guidance = None,
    seed: options.Seed = None,
    seeds: options.Seeds = "1",
    quality: options.Quality = None,
    guidance_interval: options.GuidanceInterval = None,
    guidance_every: options.GuidanceEvery = None,
    inner_every: options.InnerEvery = None,
    sampler: options.Sampler = None,
    schedule: options.Schedule = None,
    fit: options.Fit = None,
    decode_chunk: options.DecodeChunk = None,
    video_quality: options.VideoQuality = "8",
    device: options.Device = None,
    dtype: options.DType = None,
    vae_dtype: options.VaeDType = None,
    quantize: options.Quantize = None,
    compiled: options.Compile = False,
    tf32: options.Tf32 = False,
    variant: options.Variant = None,
    memory: options.Memory = None,
    yes: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a short video of each photo.

    \b
    kinora animate photo.jpg
    kinora animate photo.jpg -o out.webm --model svd-xt --motion 60 --seed 7
    kinora animate '*.jpg' --seeds 4 -o clips/

    The names of the clips are printed, one a line.
    """
    texts = {
        "frames": frames,
        "size": size,
        "steps": steps,
        "fps": fps,
        "motion": motion,
        "noise_aug": noise_aug,
        "guidance": guidance,
        "seed": seed,
        "quality": quality,
        "guidance_interval": guidance_interval,
        "guidance_every": guidance_every,
        "inner_every": inner_every,
        "sampler": sampler,
        "schedule": schedule,
        "fit": fit,
        "decode_chunk": decode_chunk,
    }
    asked = Request(image=None, **parse_fields(texts))
    chosen = Chosen(
        model=model,
        device=device,
        dtype=dtype,
        vae_dtype=vae_dtype,
        quantize=quantize,
        compiled=compiled,
        tf32=tf32,
        variant=variant,
        memory=memory,
    )
    count = parse_count("seeds", seeds, 10_000)
    file_quality = parse_count("video_quality", video_quality, 10)
    printing = Printing(json, on_terminal() and not quiet, quiet, file_quality, yes)
    jobs = plan(asked, find_photos(photos), count, output, overwrite=yes)
    cache = check_photos(asked, [job.photo for job in jobs[::count]], model)
    if printing.bars:
        remark(f"Loading {model}")
    else:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with out_of_memory(LESS_MEMORY):
        from kinora.cli.making import make_clips

        loaded = chosen.load(wait=False)
        if compiled and not quiet:
            remark("Compiling: the first step at each size takes minutes, once")
        make_clips(loaded, jobs, printing, cache)


def plan(
    asked: Request, photos: Sequence[Path], seeds: int, output: str | None, *, overwrite: bool
) -> list[Job]:
    """The clips to make, photo by photo, with seed, seed + 1 and so on of each.

    Raises what `place_clips` raises, and RequestError where seeds grow too large.
    """
    grouped = [variations(replace(asked, image=photo), seeds) for photo in photos]
    places = place_clips(photos, seeds, output, overwrite=overwrite)
    return [
        Job(photo, request, place)
        for photo, requests, place in zip(photos, grouped, places, strict=True)
        for request in requests
    ]


def variations(request: Request, seeds: int) -> list[Request]:
    """The same request with seed, seed + 1 and so on."""
    first = draw_seed() if request.seed is None else request.seed
    return [replace(request, seed=first + number) for number in range(seeds)]


def check_photos(asked: Request, photos: Sequence[Path], model: str) -> "PhotoCache":
    """Read every photo, and for a known model see whether it can make the size.

    Returns the last photo as it was read, so that a single one is not read again.
    Raises MediaError or RequestError.
    """
    from kinora.photo_cache import PhotoCache

    config, cache = known_config(model), PhotoCache()
    for path in photos:
        (photo,) = cache.read([path])
        if config is not None:
            asked.resolved(config, photo.size)
    return cache
