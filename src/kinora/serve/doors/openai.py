"""The door for programs written for OpenAI's videos."""

import math
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from kinora.config import SVD, ModelConfig, known_config
from kinora.errors import RequestError
from kinora.serve.delivery import deliver
from kinora.serve.doors.openai_body import photo_of, read_fields, text_of
from kinora.serve.doors.who import BEARER, Found, Open, Who
from kinora.serve.errors import Invalid, Missing
from kinora.serve.job import Job, State
from kinora.serve.replies import OpenAIRefusal, documented
from kinora.serve.service import Service
from kinora.spelled import parse_fields, parse_number

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/videos",
    tags=["OpenAI videos"],
    responses=documented(OpenAIRefusal),
    dependencies=[Depends(BEARER)],
)

MAX_SECONDS = 600
NOTE = "The prompt is not looked at: this model animates the picture as it is"
REMIX_NOTE = f"The same photo and settings with a new seed. {NOTE}"
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def _schema(photo: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": {
            "type": "object",
            "required": ["input_reference"],
            "properties": {
                "input_reference": photo,
                "prompt": {"type": "string", "description": "Kept, and not looked at"},
                "model": {"type": "string"},
                "seconds": {"type": "string", "examples": ["2"]},
                "size": {"type": "string", "examples": ["1280x720"]},
            },
        }
    }


URL: Final = {"type": "string", "description": "A data URI"}
BODY: Final = {
    "multipart/form-data": _schema({"type": "string", "format": "binary"}),
    "application/json": _schema({"type": "object", "properties": {"image_url": URL}}),
}
"""For the document. The body is read here, as it comes in two forms."""
REMIX_BODY: Final = {
    "application/json": {"schema": {"type": "object", "properties": {"prompt": {"type": "string"}}}}
}

Status = Literal["queued", "in_progress", "completed", "failed"]
STATUS: Final[dict[State, Status]] = {
    "queued": "queued",
    "running": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "failed",
}
VARIANTS = {"video": "clip.mp4", "thumbnail": "poster.jpg", "spritesheet": "spritesheet.jpg"}


class VideoError(BaseModel):
    """Why there is no video."""

    code: str
    message: str


class Video(BaseModel):
    """A video, made or in the making."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: int
    """Per cent."""
    created_at: int
    completed_at: int | None
    expires_at: int | None
    error: VideoError | None
    prompt: str | None
    seconds: str
    size: str
    remixed_from_video_id: str | None = None
    note: str | None = None
    """What was not done as asked for."""


class VideoList(BaseModel):
    """Videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(BaseModel):
    """A video that is gone."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: bool = True


@router.post("", summary="Begin a video", openapi_extra={"requestBody": {"content": BODY}})
async def create(service: Open, client: Who, request: Request) -> Video:
    """Of `input_reference`, a picture. The prompt is kept, and not looked at."""
    fields = await read_fields(request, service.limits.body)
    photo, asked, others = await run_in_threadpool(_asked, service, fields)
    return answered(await service.submit_async(client, photo, asked, door="openai", **others))


def _asked(
    service: Service, fields: dict[str, Any]
) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """The photo, what is asked for of it, and what else the service is told. Raises Invalid."""
    photo = photo_of(fields)
    model = str(fields.get("model") or service.settings.model_name)
    config = known_config(model)
    try:
        asked = parse_fields({"size": text_of(fields, "size")})
        seconds = parse_number("seconds", text_of(fields, "seconds") or "4")
        if not 0 < seconds <= MAX_SECONDS:
            raise RequestError(f"seconds {seconds:g}: must be more than 0, at most {MAX_SECONDS}")
    except RequestError as error:
        raise Invalid(str(error)) from None
    notes: dict[str, Any] = {"prompt": text_of(fields, "prompt"), "note": NOTE}
    if config is not None:
        asked["frames"] = min(config.frames, max(1, round(seconds * config.fps)))
        asked["size"] = asked["size"] and _near(asked["size"], config)
        notes["note"] += (
            f". More than {config.frames} frames or {config.width}x{config.height} pixels are "
            f"brought down to that, which {config.name} was trained on"
        )
    return photo, asked, {"model": model, "notes": notes}


@router.get("", summary="Your videos")
def videos(
    service: Open,
    client: Who,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """The latest first, unless asked for otherwise."""
    found = service.jobs.find(
        client.name, door="openai", after=after, limit=limit, oldest_first=order == "asc"
    )
    data = [answered(job) for job in found.jobs]
    return VideoList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=found.more,
    )


@router.get("/{id}", summary="How a video is")
def video(job: Found) -> Video:
    """Its status and progress."""
    return answered(job)


@router.get("/{id}/content", summary="The video")
def content(
    service: Open,
    job: Found,
    request: Request,
    variant: Literal["video", "thumbnail", "spritesheet"] = "video",
) -> Response:
    """Or its first frame, or up to 16 of its frames."""
    service.clip(job)  # before there is one, there is nothing else
    return deliver(service.files, f"{job.folder}/{VARIANTS[variant]}", request)


@router.post(
    "/{id}/remix",
    summary="The same photo and settings with another seed",
    openapi_extra={"requestBody": {"content": REMIX_BODY}},
)
async def remix(service: Open, client: Who, job: Found, request: Request) -> Video:
    """The prompt is kept, and not looked at."""
    fields = await read_fields(request, service.limits.body)
    photo = await run_in_threadpool(service.files.read, f"{job.folder}/photo")
    asked = {name: value for name, value in job.asked.items() if name != "seed"}
    notes = {"prompt": text_of(fields, "prompt"), "note": REMIX_NOTE, "remixed_from": job.id}
    return answered(
        await service.submit_async(
            client, photo, asked, door="openai", model=job.model, notes=notes
        )
    )


@router.delete("/{id}", summary="Forget a video")
def delete(service: Open, client: Who, id: str) -> Deleted:
    """One that is being made is cancelled."""
    service.delete(client, id)
    return Deleted(id=id)


@router.api_route("/{id}/{verb:path}", methods=METHODS, include_in_schema=False)
def no_such(verb: str) -> None:
    """Whatever else that service has, or will have."""
    raise Missing(f"{verb[:40]!r}: there is nothing of this name about a video here")


def answered(job: Job) -> Video:
    """A job as a video."""
    config = known_config(job.model) or SVD
    told = {"fps": config.fps, "frames": config.frames, **job.asked, **(job.result or {})}
    width, height = job.asked.get("size") or (config.width, config.height)
    if job.result is not None:
        width, height = job.result["width"], job.result["height"]
    error = None if job.error is None else VideoError(**job.error)
    if job.state == "cancelled":
        error = VideoError(code="cancelled", message="it was cancelled")
    return Video(
        id=job.id,
        model=job.model,
        status=STATUS[job.state],
        progress=round(100 * job.progress),
        created_at=int(job.created),
        completed_at=None if job.state != "succeeded" else int(job.finished or 0),
        expires_at=None if job.expires is None else int(job.expires),
        error=error,
        prompt=job.notes.get("prompt"),
        seconds=f"{told['frames'] / told['fps']:.3g}",
        size=f"{width}x{height}",
        remixed_from_video_id=job.notes.get("remixed_from"),
        note=job.notes.get("note"),
    )


def _near(size: tuple[int, int], config: ModelConfig) -> tuple[int, int]:
    """The model's size of about this shape, with at most as many pixels as it was trained on."""
    scale = min(1.0, math.sqrt(config.width * config.height / (size[0] * size[1])))
    multiple = config.size_multiple
    width, height = (max(multiple, round(scale * s / multiple) * multiple) for s in size)
    return width, height
