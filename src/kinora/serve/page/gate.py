"""What of Gradio's own routes is open: those that the page calls, for what it says on them.

Gradio brings many more. Some give files of this machine out, or fetch what a client names; its
queue does so too for any value that looks like a file. None of that is needed here.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Gate"]

READ: Final = re.compile(
    r"(?!.*\.\.)/(|config|theme\.css|favicon\.ico|(assets|static)/.+"
    r"|gradio_api/(info|startup-events|app_id|queue/data|heartbeat/\w+))"
)
CALL: Final = re.compile(r"/gradio_api/(queue/join|cancel|reset)")
WITH_QUERY: Final = ("/gradio_api/queue/data",)
BODY: Final = 1 << 16
"""Bytes of a call: settings only, photos come another way."""

Plain = str | int | float | None  # and bool, which is an int


class Gate:
    """Lets through to Gradio what the page says to it; all else isn't there."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        """routes: the service's own."""
        self.app = app
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD") and READ.fullmatch(path):
            if path not in WITH_QUERY:  # where one could name a file
                scope = {**scope, "query_string": b""}
            await self.app(scope, receive, send)
        elif method == "POST" and CALL.fullmatch(path):
            body = await whole(receive)
            if body is None or not harmless(body):
                await PlainTextResponse("not a call of the page", 422)(scope, receive, send)
            else:
                await self.app(scope, replayed(body, receive), send)
        else:  # in the words of the door that the path belongs to
            raise HTTPException(405 if self._elsewhere(scope) else 404)

    def _elsewhere(self, scope: Scope) -> bool:
        """Whether another route has this path, for another method; the mount was preferred."""
        return any(route.matches(scope)[0] is Match.PARTIAL for route in self.routes)


async def whole(receive: Receive) -> bytes | None:
    """The body of a request; None where it is too long."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY:
            return None
    return body


def replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body once more, then what comes after it."""
    parts: list[Message] = [{"type": "http.request", "body": body}]

    async def again() -> Message:
        return parts.pop() if parts else await receive()

    return again


def harmless(body: bytes) -> bool:
    """Whether all values are plain: a file would be an object that tells where it lies."""
    try:
        call: Any = json.loads(body)
        values: list[Any] = [*(call.get("data") or []), *(call.get("event_data") or {}).values()]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return False
    return all(isinstance(value, Plain) for value in values)
