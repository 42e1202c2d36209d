"""Refusals in the form that each protocol has for them."""

from typing import Any, Final

from pydantic import BaseModel
from starlette.responses import JSONResponse, RedirectResponse, Response

from kinora.serve.errors import (
    Busy,
    Conflict,
    Foreign,
    Invalid,
    Missing,
    Refused,
    TooLarge,
    TooMany,
    Unknown,
)

LONGEST: Final = 1000
"""Characters of a message: it may quote what a client sent."""

__all__ = ["OpenAIRefusal", "OwnRefusal", "StabilityRefusal", "documented", "refusal"]


class OwnFault(BaseModel):
    """What went wrong: for programs, and for people."""

    code: str
    message: str


class OwnRefusal(BaseModel):
    """Why something is not done."""

    error: OwnFault
    request: str
    """Its id, as the log has it."""


class StabilityRefusal(BaseModel):
    """Why something is not done."""

    id: str
    name: str
    errors: list[str]


class OpenAIFault(BaseModel):
    """What went wrong: for programs, and for people."""

    message: str
    type: str
    code: str
    param: str | None = None


class OpenAIRefusal(BaseModel):
    """Why something is not done."""

    error: OpenAIFault


def documented(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What a door may answer instead, for the OpenAPI document."""
    kinds = (Unknown, Foreign, Missing, Conflict, TooLarge, Invalid, TooMany, Busy)
    return {kind.status: {"model": model, "description": str(kind.__doc__)} for kind in kinds}


def refusal(path: str, refused: Refused, id: str, *, page: bool = False) -> Response:
    """What a client is told that came through the door that the path belongs to.

    id: of the request, as the log has it.
    page: whether a browser asks, for a page that people look at.
    """
    if page and isinstance(refused, Unknown):
        return RedirectResponse("/login", 303)
    code, message = refused.code, str(refused)[:LONGEST]
    if path.startswith("/v2beta/"):
        told: BaseModel = StabilityRefusal(id=id, name=code, errors=[message])
    elif path.startswith("/v1/"):
        kind = "server_error" if refused.status >= 500 else "invalid_request_error"
        told = OpenAIRefusal(error=OpenAIFault(message=message, type=kind, code=code))
    else:
        told = OwnRefusal(error=OwnFault(code=code, message=message), request=id)
    headers = dict(refused.headers)
    if refused.retry_after:
        headers["retry-after"] = str(refused.retry_after)
    return JSONResponse(told.model_dump(), refused.status, headers)
