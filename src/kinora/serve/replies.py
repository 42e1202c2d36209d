"""Refusals in the form that each protocol has for them."""

from typing import Any

from starlette.responses import JSONResponse, RedirectResponse, Response

from kinora.serve.errors import Refused, Unknown

__all__ = ["refusal"]


def refusal(path: str, refused: Refused, id: str, *, page: bool = False) -> Response:
    """What a client is told that came through the door that the path belongs to.

    id: of the request, as the log has it.
    page: whether a browser asks, for a page that people look at.
    """
    if page and isinstance(refused, Unknown):
        return RedirectResponse("/login", 303)
    content: dict[str, Any]
    if path.startswith("/v2beta/"):
        content = {"id": id, "name": refused.code, "errors": [str(refused)]}
    elif path.startswith("/v1/"):
        kind = "server_error" if refused.status >= 500 else "invalid_request_error"
        content = {
            "error": {"message": str(refused), "type": kind, "code": refused.code, "param": None}
        }
    else:
        content = {"error": {"code": refused.code, "message": str(refused)}, "request": id}
    wait = {"retry-after": str(refused.retry_after)} if refused.retry_after else None
    return JSONResponse(content, refused.status, wait)
