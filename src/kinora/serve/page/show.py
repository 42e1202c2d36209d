"""Jobs as HTML: what becomes of them, and what came of those before."""

import html
import json
from collections.abc import Sequence
from typing import Any, Final, cast

from kinora.serve.job import Job
from kinora.serve.page.following import Queue

__all__ = ["detail", "gallery", "stage"]

PHASES: Final = {"encoding": "Looking at the photo", "decoding": "Developing the frames"}
NAMES: Final = {
    "size": "Size",
    "frames": "Frames",
    "fps": "Frames a second",
    "seed": "Seed",
    "quality": "Quality",
    "motion": "Motion",
    "noise_aug": "Noise on the photo",
    "guidance": "Guidance, first to last frame",
    "steps": "Steps",
    "sampler": "Sampler",
    "fit": "Fit",
}
STATES: Final = {"queued": "in the making", "running": "in the making"}

EMPTY: Final = (
    '<div class="k-empty"><p><strong>Your clip will appear here.</strong></p>'
    "<p>Choose a photo, then press “Make the clip”.</p></div>"
)
NO_CLIPS: Final = '<p class="k-quiet">None yet. Those you make stay here, also when you leave.</p>'


def stage(jobs: Sequence[Job], waiting: dict[str, Queue]) -> str:
    """What is being made or looked at: one job large, or several side by side.

    waiting: what each that waits is waiting for.
    """
    if not jobs:
        return EMPTY
    many = len(jobs) > 1
    shown = "".join(
        f'<article class="k-card" data-job="{_e(job.id)}">{_picture(job)}'
        f"<div>{_words(job, waiting.get(job.id), many)}</div></article>"
        for job in jobs
    )
    return f'<div class="k-stage{" k-many" if many else ""}">{shown}</div>'


def detail(job: Job) -> str:
    """The recipe of a clip, for people and for programs."""
    if job.result is None:
        return ""
    recipe: dict[str, Any] = job.result["recipe"]
    values = {"model": job.model, **recipe.get("request", {})}
    rows = "".join(
        f"<tr><th scope=row>{name}</th><td>{_e(_plain(values[key]))}</td></tr>"
        for key, name in {"model": "Model", **NAMES}.items()
        if values.get(key) is not None
    )
    text = _e(json.dumps(recipe, indent=2))
    return (
        f'<table class="k-recipe"><caption>Recipe</caption>{rows}</table>'
        f"<details><summary>As JSON</summary><pre tabindex=0>{text}</pre></details>"
    )


def gallery(jobs: Sequence[Job], shown: Sequence[str]) -> str:
    """Earlier clips, to be picked."""
    if not jobs:
        return NO_CLIPS
    items = "".join(f"<li>{_thumbnail(job, job.id in shown)}</li>" for job in jobs)
    return f'<ul class="k-gallery">{items}</ul>'


def _picture(job: Job) -> str:
    place = _place(job)
    if job.state == "succeeded" and job.result is not None:
        ratio = job.result["width"] / job.result["height"]
        return (
            f'<video class="k-still" src="{place}/clip.mp4" poster="{place}/poster.jpg" '
            f'style="--ratio: {ratio:.4f}" aria-label="Clip of seed {_seed(job)}" '
            "controls loop muted autoplay playsinline>"
            "</video>"
        )
    if job.previews and not job.ended:
        shown = f"{place}/preview.jpg?n={job.previews}"
        return f'<img class="k-still" src="{shown}" alt="What can be seen of it so far">'
    return f'<div class="k-still k-blank">Seed {_seed(job)}</div>'


def _words(job: Job, queue: Queue | None, many: bool) -> str:
    pick = f'<button type="button" class="k-link" data-pick="{job.id}">Choose this one</button>'
    if job.state == "succeeded":
        return (
            f'<p class="k-line"><span role="status">Done.</span> Seed {_seed(job)}</p>'
            f'<p class="k-links">{_downloads(job)}{pick if many else ""}</p>'
        )
    if job.state == "failed":
        said = (job.error or {}).get("message", "It failed")
        return f'<p class="k-line k-bad" role="alert">It failed: {_e(said)}</p>'
    if job.state == "cancelled":
        return '<p class="k-line" role="status">Cancelled.</p>'
    percent = round(100 * job.progress)
    known = job.phase in ("sampling", "decoding") and job.state == "running"
    now = f'aria-valuenow="{percent}" ' if known else ""
    return (
        f'<div class="k-bar{"" if known else " k-unknown"}" role="progressbar" {now}'
        f'aria-valuemin="0" aria-valuemax="100" aria-label="Progress of seed {_seed(job)}">'
        f'<div style="width: {percent}%"></div></div>'
        f'<p class="k-line">{_e(_doing(job, queue))}</p>'
    )


def _doing(job: Job, queue: Queue | None) -> str:
    """How far it is, in words."""
    if job.cancelling:
        return "Stopping …"
    if job.state == "queued":
        if queue is not None and not queue.workers:
            return "No worker is there yet: one begins as soon as it has loaded the model"
        return f"Waiting: {queue.ahead} before it" if queue and queue.ahead else "It is next"
    if job.phase != "sampling":
        return f"{PHASES.get(job.phase or '', 'Beginning')} …"
    left = "" if job.seconds_left is None else f", about {_duration(job.seconds_left)} left"
    return f"Step {job.step} of {job.steps}{left}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min"


def _downloads(job: Job) -> str:
    return "".join(
        f'<a download="kinora-{_seed(job)}.{suffix}" href="{_place(job)}/clip.{suffix}" '
        f'aria-label="Download as {suffix}">{suffix}</a>'
        for suffix in ("mp4", "webm", "gif")
    )


def _thumbnail(job: Job, shown: bool) -> str:
    seed, mark = _seed(job), STATES.get(job.state, job.state)
    if job.state == "succeeded":
        picture = f'<img src="{_place(job)}/poster.jpg" alt="Clip of seed {seed}" loading="lazy">'
    else:
        picture = f'<span class="k-blank">{mark}</span>'
    current = ' aria-current="true"' if shown else ""
    return (
        f'<button type="button" data-pick="{job.id}"{current}>{picture}'
        f"<span>{_named(job)}</span></button>"
    )


def _named(job: Job) -> str:
    """What tells one clip from the others."""
    told = (f"{name} {job.asked[name]}" for name in ("seed", "motion") if name in job.asked)
    return _e(", ".join([*told, *filter(None, [job.asked.get("quality")])]))


def _place(job: Job) -> str:
    return f"/api/v1/jobs/{_e(job.id)}"


def _seed(job: Job) -> str:
    return _e(str(job.asked.get("seed", "")))


def _plain(value: Any) -> str:  # noqa: ANN401 (JSON)
    if isinstance(value, float):
        return f"{value:g}"
    if not isinstance(value, list):
        return str(value)
    parts = cast(list[Any], value)
    return (" to " if isinstance(parts[0], float) else " × ").join(map(_plain, parts))


def _e(text: str) -> str:
    return html.escape(text)
