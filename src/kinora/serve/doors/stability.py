"""The door for programs written for Stability's image-to-video service."""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Header, Response
from starlette.responses import JSONResponse

from kinora.serve.doors.who import BEARER, Found, Open, Who, short_texts
from kinora.serve.errors import Broken, Missing
from kinora.serve.replies import StabilityRefusal, documented

__all__ = ["router"]

router = APIRouter(
    prefix="/v2beta/image-to-video",
    tags=["Stability image-to-video"],
    responses=documented(StabilityRefusal),
    dependencies=[Depends(BEARER), Depends(short_texts)],
)

KEPT = 24 * 3600
"""Seconds."""


@router.post("", summary="Begin a clip")
async def begin(
    service: Open,
    client: Who,
    image: Annotated[bytes, File(description="JPEG or PNG")],
    seed: Annotated[int, Form(ge=0, le=2**32 - 2, description="0 draws one")] = 0,
    cfg_scale: Annotated[float, Form(ge=0, le=10)] = 1.8,
    motion_bucket_id: Annotated[int, Form(ge=1, le=255)] = 127,
) -> dict[str, str]:
    """cfg_scale is guidance at the last frame, where the first has 1."""
    job = await service.submit_async(
        client,
        image,
        {"seed": seed or None, "guidance": [1.0, cfg_scale], "motion": motion_bucket_id},
        door="stability",
        keep=KEPT,
        kinds=("JPEG", "PNG"),
    )
    return {"id": job.id}


@router.get("/result/{id}", summary="The clip, or 202 while it is being made")
def result(
    service: Open, job: Found, id: str, accept: Annotated[str, Header()] = "video/*"
) -> Response:
    """As the file itself, or within JSON where that is accepted."""
    if job.door != "stability":
        raise Missing(f"{id}: no such generation")
    if job.error is not None:
        raise Broken(job.error["message"])
    if job.state == "cancelled":
        raise Missing(f"{id}: it was cancelled")
    if job.state != "succeeded":
        return JSONResponse({"id": id, "status": "in-progress"}, 202)
    video = service.files.read(service.clip(job))
    about: dict[str, Any] = {"finish_reason": "SUCCESS", "seed": job.asked["seed"]}
    if "json" in accept:
        return JSONResponse({"video": base64.b64encode(video).decode(), **about})
    headers = {"finish-reason": about["finish_reason"], "seed": str(about["seed"])}
    return Response(video, media_type="video/mp4", headers=headers)
