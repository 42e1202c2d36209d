"""Making the clips that were asked for. Imported when all arguments were found to be right."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kinora.cli.display import Tell, display
from kinora.cli.job import Job, Printing
from kinora.cli.say import remark, result
from kinora.clip import Clip
from kinora.events import Decoded, Done, Encoded, Planned, Sampled
from kinora.photo_cache import PhotoCache
from kinora.pipeline import Pipeline

__all__ = ["make_clips"]


def make_clips(
    pipeline: Pipeline, jobs: Sequence[Job], printing: Printing, cache: PhotoCache
) -> None:
    """Make the clips one after the other, which a seed's result doesn't depend on, and save each
    as soon as it is there.

    cache: what has been read; the clips of one photo share its encodings.
    """
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said and not printing.quiet:
            said.add(text)
            remark(text)

    with display(shown=printing.bars, clips=len(jobs)) as tell:
        for job in jobs:
            started = time.perf_counter()
            clip = make(pipeline, job, tell, say, cache)
            tell(f"saving {job.photo.name}", 0, 0)
            if job.place.named:
                path = clip.save(
                    job.place.path,
                    overwrite=printing.overwrite,
                    video_quality=printing.video_quality,
                )
            else:
                path = clip.save_free(job.place.path, video_quality=printing.video_quality)
            show(path, job, clip, time.perf_counter() - started, printing)


def make(
    pipeline: Pipeline, job: Job, tell: Tell, say: Callable[[str], None], cache: PhotoCache
) -> Clip:
    """Make one clip, telling of every step, and saying how memory is kept within bounds."""

    tell(f"encoding {job.photo.name}", 0, 0)
    for event in pipeline.stream(job.request, cache=cache):
        match event:
            case Planned(memory=memory):
                say(f"Memory: {memory}")
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


def show(path: Path, job: Job, clip: Clip, seconds: float, printing: Printing) -> None:
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
