"""`kinora animate`: from photos to clips."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kinora.cli import options
from kinora.cli.check import (
    PRECISIONS,
    VARIANTS,
    check_choice,
    check_device,
    check_model,
    known_config,
    parse_count,
    parse_guidance,
    parse_integer,
    parse_number,
    parse_size,
)
from kinora.cli.display import Tell, display, on_terminal
from kinora.cli.place import Place, find_photos, place_clips
from kinora.cli.say import remark, result
from kinora.cli.session import out_of_memory
from kinora.request import Request, draw_seed

if TYPE_CHECKING:
    from kinora.clip import Clip
    from kinora.pipeline import Pipeline

__all__ = ["animate"]

LESS_MEMORY = (
    "lower --size or --frames, decode fewer frames at a time (--decode-chunk 4), "
    "or use --dtype float16"
)


class Job(NamedTuple):
    """One clip to make."""

    photo: Path
    request: Request
    place: Place


class Printing(NamedTuple):
    """How results are told."""

    json: bool
    bars: bool
    quality: int
    overwrite: bool


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
    sampler: options.Sampler = None,
    fit: options.Fit = None,
    decode_chunk: options.DecodeChunk = None,
    quality: options.Quality = "8",
    device: options.Device = None,
    dtype: options.DType = None,
    vae_dtype: options.VaeDType = None,
    variant: options.Variant = None,
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
    asked = Request(
        image=None,
        frames=parse_integer("frames", frames),
        size=parse_size(size),
        steps=parse_integer("steps", steps),
        fps=parse_integer("fps", fps),
        motion=parse_integer("motion", motion),
        noise_aug=parse_number("noise_aug", noise_aug),
        guidance=parse_guidance(guidance),
        seed=parse_integer("seed", seed),
        sampler=sampler,
        fit=fit,
        decode_chunk=parse_integer("decode_chunk", decode_chunk),
    )
    check_device(device)
    check_choice("dtype", dtype, PRECISIONS)
    check_choice("vae_dtype", vae_dtype, PRECISIONS)
    check_choice("variant", variant, VARIANTS)
    count = parse_count("seeds", seeds, 10_000)
    printing = Printing(json, on_terminal() and not quiet, parse_count("quality", quality, 10), yes)
    check_model(model)
    found = find_photos(photos)
    requests = [variations(replace(asked, image=photo), count) for photo in found]
    places = place_clips(found, count, output, overwrite=yes)
    check_photos(asked, found, model)
    jobs = [
        Job(photo, request, place)
        for photo, group, place in zip(found, requests, places, strict=True)
        for request in group
    ]
    with out_of_memory(LESS_MEMORY):
        pipeline = load(model, device, dtype, vae_dtype, variant, bars=printing.bars)
        run(pipeline, jobs, printing)


def variations(request: Request, seeds: int) -> list[Request]:
    """The same request with seed, seed + 1 and so on."""
    first = draw_seed() if request.seed is None else request.seed
    return [replace(request, seed=first + number) for number in range(seeds)]


def check_photos(asked: Request, photos: Sequence[Path], model: str) -> None:
    """Read every photo, and for a known model see whether it can make the size.

    Raises MediaError or RequestError.
    """
    from kinora.media import load_photo

    config = known_config(model)
    for photo in photos:
        size = load_photo(photo).size
        if config is not None:
            asked.resolved(config, size)


def load(
    model: str,
    device: str | None,
    dtype: str | None,
    vae_dtype: str | None,
    variant: str | None,
    *,
    bars: bool,
) -> "Pipeline":
    """Load the model; a download shows its own progress."""
    if bars:
        remark(f"Loading {model}")
    else:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from kinora import pipeline

    return pipeline.load(model, device=device, dtype=dtype, vae_dtype=vae_dtype, variant=variant)


def run(pipeline: "Pipeline", jobs: Sequence[Job], printing: Printing) -> None:
    """Make the clips one after the other, which a seed's result doesn't depend on, and save each
    as soon as it is there."""
    with display(shown=printing.bars, clips=len(jobs)) as tell:
        for job in jobs:
            started = time.perf_counter()
            clip = make(pipeline, job, tell)
            tell(f"saving {job.photo.name}", 0, 0)
            if job.place.named:
                path = clip.save(
                    job.place.path, overwrite=printing.overwrite, quality=printing.quality
                )
            else:
                path = clip.save_free(job.place.path, quality=printing.quality)
            show(path, job, clip, time.perf_counter() - started, printing)


def make(pipeline: "Pipeline", job: Job, tell: Tell) -> "Clip":
    """Make one clip, telling of every step."""
    from kinora.events import Decoded, Done, Encoded, Sampled

    tell(f"encoding {job.photo.name}", 0, 0)
    for event in pipeline.stream(job.request):
        match event:
            case Encoded(plans=(plan,)):
                tell(f"sampling {job.photo.name}", 0, plan.steps)
            case Sampled(step=step, steps=steps):
                tell(f"sampling {job.photo.name}", step, steps)
                if step == steps:
                    tell(f"decoding {job.photo.name}", 0, 0)
            case Decoded(done=done, frames=frames):
                tell(f"decoding {job.photo.name}", done, frames)
            case Done(clips=(clip,)):
                return clip
            case _:
                pass
    raise AssertionError("a stream ends with Done")


def show(path: Path, job: Job, clip: "Clip", seconds: float, printing: Printing) -> None:
    """One line on stdout."""
    if printing.json:
        line = {
            "output": str(path),
            "photo": str(job.photo),
            "seed": job.request.seed,
            "seconds": round(seconds, 3),
            "recipe": clip.recipe,
        }
        result(json.dumps(line))
    elif sys.stdout.isatty():
        width, height = clip.size
        result(
            f"{path}  ({len(clip.frames)} frames, {width}x{height}, seed {job.request.seed}, "
            f"{seconds:.1f} s)"
        )
    else:
        result(str(path))
