"""Kinora's own door: jobs, their events, and the clips."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, File, Form, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from kinora.config import CONSISTENCY_STEPS, MAX_CONSISTENCY_STEPS, known_config
from kinora.errors import RequestError
from kinora.request import FITS, QUALITIES, SAMPLERS, SCHEDULES
from kinora.serve.delivery import deliver
from kinora.serve.doors.who import BEARER, Found, Open, Who, short_texts
from kinora.serve.errors import Invalid
from kinora.serve.job import Job, State
from kinora.serve.replies import OwnRefusal, documented
from kinora.serve.service import FIELDS
from kinora.spelled import parse_fields

__all__ = ["router"]

router = APIRouter(
    prefix="/api/v1",
    tags=["jobs"],
    responses=documented(OwnRefusal),
    dependencies=[Depends(BEARER), Depends(short_texts)],
)

Whole = Annotated[int | None, Form()]
STEPS = (
    f"1-1000; likewise. For the consistency sampler 1-{MAX_CONSISTENCY_STEPS}, "
    f"{CONSISTENCY_STEPS} when left out"
)


class Progress(BaseModel):
    """How far a job is."""

    fraction: float
    phase: str | None
    step: int
    steps: int
    seconds_left: float | None
    """Of sampling."""
    previews: int


class JobAnswer(BaseModel):
    """A job. Times are seconds since 1970."""

    id: str
    state: State
    model: str
    created: float
    started: float | None
    finished: float | None
    expires: float | None
    asked: dict[str, Any]
    """Its settings; those that are left out are the model's own."""
    progress: Progress
    ahead: int | None = None
    """Jobs before this one, while it waits; not told in lists."""
    cautions: list[str]
    """What is allowed, but not what the model was trained for."""
    error: dict[str, str] | None
    result: dict[str, Any] | None
    links: dict[str, str]


class JobList(BaseModel):
    """Jobs, the latest first."""

    jobs: list[JobAnswer]
    after: str | None
    """To be asked for to see earlier ones; none where there are no more."""


class ModelAnswer(BaseModel):
    """A model that can be asked for."""

    name: str
    workers: int
    """That run it now."""
    frames: int | None
    """What it makes unless told otherwise; likewise all below. None where that isn't known."""
    size: tuple[int, int] | None
    """Width and height."""
    fps: int | None
    steps: int | None
    motion: int | None
    noise_aug: float | None
    guidance: tuple[float, float] | None


def one_of(names: Iterable[str]) -> str:
    return f"One of {', '.join(names)}"


async def known(request: Request) -> None:
    """Raises Invalid for what is no form, or has fields that there are not: misspelt ones."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Invalid("send a form (multipart/form-data), whose field `photo` is a file")
    unknown = sorted(set(await request.form()) - {"photo", "model", *FIELDS})
    if unknown:
        raise Invalid(f"{', '.join(unknown)}: no such field. There are {', '.join(FIELDS)}")


@router.post(
    "/jobs", status_code=202, summary="Ask for a clip of a photo", dependencies=[Depends(known)]
)
async def submit(
    service: Open,
    client: Who,
    photo: Annotated[bytes, File(description="JPEG, PNG or WebP")],
    model: Annotated[str | None, Form(description="As GET /api/v1/models has them")] = None,
    frames: Annotated[int | None, Form(description="1-256; the service may have a limit")] = None,
    size: Annotated[str | None, Form(description="Width and height: 1024x576")] = None,
    steps: Annotated[int | None, Form(description=STEPS)] = None,
    fps: Annotated[int | None, Form(description="1-60")] = None,
    motion: Annotated[int | None, Form(description="How much moves, 0-255")] = None,
    noise_aug: Annotated[float | None, Form(description="Noise on the photo, 0-1")] = None,
    guidance: Annotated[str | None, Form(description="First to last frame: 1:3")] = None,
    seed: Annotated[int | None, Form(description="0 to 2^63 - 1; drawn when left out")] = None,
    quality: Annotated[str | None, Form(description=one_of(QUALITIES))] = None,
    guidance_interval: Annotated[
        str | None, Form(description="Noise levels with guidance: 0.1:50")
    ] = None,
    guidance_every: Whole = None,
    inner_every: Whole = None,
    sampler: Annotated[str | None, Form(description=one_of(SAMPLERS))] = None,
    schedule: Annotated[str | None, Form(description=one_of(SCHEDULES))] = None,
    fit: Annotated[str | None, Form(description=one_of(FITS))] = None,
    decode_chunk: Whole = None,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> JobAnswer:
    """What is left out becomes the model's own default.

    With an `Idempotency-Key`, asking again gives the job that there is already.
    """
    asked: dict[str, Any] = {
        "frames": frames,
        "steps": steps,
        "fps": fps,
        "motion": motion,
        "noise_aug": noise_aug,
        "seed": seed,
        "quality": quality,
        "guidance_every": guidance_every,
        "inner_every": inner_every,
        "sampler": sampler,
        "schedule": schedule,
        "fit": fit,
        "decode_chunk": decode_chunk,
    }
    written = {"size": size, "guidance": guidance, "guidance_interval": guidance_interval}
    try:
        asked |= parse_fields(written)
    except RequestError as error:
        raise Invalid(str(error)) from None
    job = await service.submit_async(
        client, photo, asked, door="own", model=model, key=idempotency_key or None
    )
    return answered(job, await run_in_threadpool(service.jobs.ahead, job))


@router.get("/jobs", summary="Your jobs")
def jobs(
    service: Open,
    client: Who,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobList:
    """The latest first, whichever door they came by; fewer than `limit` where they are large."""
    found = service.jobs.find(client.name, after=after, limit=limit)
    last = found.jobs[-1].id if found.jobs and found.more else None
    return JobList(jobs=[answered(job) for job in found.jobs], after=last)


@router.get("/jobs/{id}", summary="How a job is")
def job(service: Open, job: Found) -> JobAnswer:
    """Its state, how far it is, and where its files are."""
    return answered(job, service.jobs.ahead(job) if job.state == "queued" else None)


@router.get("/jobs/{id}/events", response_class=EventSourceResponse, summary="A job as it changes")
async def events(service: Open, job: Found) -> AsyncGenerator[ServerSentEvent]:
    """The job whenever it has changed, as server-sent events, until it has ended."""
    async for now in service.watch.follow(job.id):
        ahead = await asyncio.to_thread(service.jobs.ahead, now) if now.state == "queued" else None
        yield ServerSentEvent(event="job", data=answered(now, ahead))


@router.post("/jobs/{id}/cancel", summary="Stop a job")
def cancel(service: Open, client: Who, id: str) -> JobAnswer:
    """At once where it waits, within a step where it runs."""
    return answered(service.cancel(client, id))


@router.delete("/jobs/{id}", status_code=204, summary="Forget a job")
def delete(service: Open, client: Who, id: str) -> None:
    """With its photo and its clip. One that has not ended is cancelled."""
    service.delete(client, id)


@router.get("/jobs/{id}/clip.{suffix}", summary="The clip")
def clip(
    service: Open, job: Found, request: Request, suffix: Literal["mp4", "webm", "gif"]
) -> Response:
    """In parts where asked for (`Range`)."""
    return deliver(service.files, service.clip(job, suffix), request)


@router.get("/jobs/{id}/{name}.jpg", summary="A picture of the clip")
def picture(
    service: Open,
    job: Found,
    request: Request,
    name: Literal["preview", "poster", "spritesheet"],
) -> Response:
    """What can be seen of the clip while it is made, its first frame, or up to 16 of them."""
    file = f"preview-{job.previews}" if name == "preview" else name
    return deliver(service.files, f"{job.folder}/{file}.jpg", request)


@router.get("/models", summary="The models that can be asked for")
def models(service: Open) -> list[ModelAnswer]:
    """What they make unless told otherwise, and how many workers run each."""
    return [model_answered(name, count) for name, count in service.models().items()]


def model_answered(name: str, workers: int) -> ModelAnswer:
    config = known_config(name)
    return ModelAnswer(
        name=name,
        workers=workers,
        frames=config and config.frames,
        size=config and (config.width, config.height),
        fps=config and config.fps,
        steps=config and config.steps,
        motion=config and config.motion,
        noise_aug=config and config.noise_aug,
        guidance=config and config.guidance,
    )


def answered(job: Job, ahead: int | None = None) -> JobAnswer:
    """A job as clients see it."""
    place = f"/api/v1/jobs/{job.id}"
    links = {"self": place, "events": f"{place}/events"}
    if job.state == "succeeded":
        links |= {name: f"{place}/{name}.jpg" for name in ("poster", "spritesheet")}
        links["clip"] = f"{place}/clip.mp4"
    if job.previews:
        links["preview"] = f"{place}/preview.jpg"
    return JobAnswer(
        id=job.id,
        state=job.state,
        model=job.model,
        created=job.created,
        started=job.started,
        finished=job.finished,
        expires=job.expires,
        asked=job.asked,
        progress=Progress(
            fraction=job.progress,
            phase=job.phase,
            step=job.step,
            steps=job.steps,
            seconds_left=job.seconds_left,
            previews=job.previews,
        ),
        ahead=ahead,
        cautions=job.notes.get("cautions", []),
        error=job.error,
        result=job.result,
        links=links,
    )
