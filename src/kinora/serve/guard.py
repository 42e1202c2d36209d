"""What every request passes, whichever door it is for: the page's own routes too."""

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kinora.serve.access import NOBODY, Access, Client, is_loopback
from kinora.serve.budget import Budget
from kinora.serve.errors import (
    Broken,
    Foreign,
    Refused,
    Slow,
    TooLarge,
    Unknown,
    UnsupportedCharset,
)
from kinora.serve.replies import refusal
from kinora.serve.settings import Limits

__all__ = ["COOKIE", "Guard"]

COOKIE: Final = "kinora_token"
FREE: Final = ("/healthz", "/readyz", "/login")
"""Paths for which nobody is asked who they are."""
STATIC: Final = ("/assets/", "/static/", "/theme.css", "/favicon.ico")
"""What the page's looks consist of: it isn't counted, as one page asks for dozens of them."""
READING: Final = ("GET", "HEAD")
METHODS: Final = (*READING, "POST", "DELETE", "PUT", "PATCH", "OPTIONS")
LONGEST: Final = 200
"""Characters of a path in the log."""
LOGIN_BODY: Final = 4096
"""Bytes of a login, the only body that is read of somebody without a token."""
CHARSET: Final = re.compile(r"""charset[*0-9]*\s*=\s*["']?([^;"'\s]*)""")

HEADERS: Final = {
    "content-security-policy": "default-src 'none'; "
    # Gradio writes its settings into the page, and renders by functions that it makes there.
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Nothing from elsewhere is loaded, and nobody else shows or calls the page."""

Seen = Callable[[str, Scope, int, float], None]

log = structlog.get_logger()


class Guard:
    """Middleware: who it is, from where, how often, how much and how slowly; a line in the log."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, seen: Seen) -> None:
        """seen: told method, scope, status and seconds of every request."""
        self.app = app
        self.access = access
        self.limits = limits
        self.budget = Budget(limits.uploads, limits.room_seconds)
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            visit = Visit(scope, receive, send, self.limits, self.budget)
            with structlog.contextvars.bound_contextvars(request=visit.id):
                await self._answer(visit)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # nothing here uses them
        else:
            await self.app(scope, receive, send)

    async def _answer(self, visit: "Visit") -> None:
        start = time.perf_counter()
        try:
            self._check(visit)
            await self.app(visit.scope, visit.receive, visit.send)
        except Refused as refused:
            await visit.refuse(refused)
        except Exception:
            log.exception("fault")
            await visit.refuse(Broken("a fault of this service; its log tells more"))
        finally:
            visit.end()
            seconds = time.perf_counter() - start
            self.seen(visit.method, visit.scope, visit.status, seconds)
            # Open pages ask every two seconds whether the service is there.
            write = log.debug if visit.scope["path"] == "/healthz" else log.info
            write(
                "request",
                method=visit.method,
                path=quote(visit.scope["path"])[:LONGEST],
                status=visit.status,
                milliseconds=round(1000 * seconds, 1),
                client=visit.client.name,
            )

    def _check(self, visit: "Visit") -> None:
        """Raises a kind of Refused."""
        headers, path = visit.headers, visit.scope["path"]
        if self.access.open and not is_loopback(_name(headers.get("host", ""))):
            # A name of somebody's own that they let point here, to call it from their pages.
            raise Foreign("this service answers to localhost only: open it under that name")
        _check_charset(headers)
        bearer = _bearer(headers)
        if visit.method not in READING and (self.access.open or not bearer):
            _check_origin(headers)
        if path in FREE:
            if path == "/login":
                self.access.count(visit.peer)
        else:
            visit.client = self._client(visit, bearer or _cookie(headers))
            if not (visit.method in READING and path.startswith(STATIC)):
                self.access.count(visit.client.name, visit.client.requests)
        visit.check_body()
        visit.scope.setdefault("state", {}).update(client=visit.client, id=visit.id)

    def _client(self, visit: "Visit", token: str | None) -> Client:
        """Raises Unknown, or TooMany for somebody who tries one token after the other."""
        try:
            return self.access.client(token)
        except Unknown:
            self.access.count(visit.peer)
            raise


class Visit:
    """One request: its body is watched as it comes, its answer gets what every answer has."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, limits: Limits, budget: Budget
    ) -> None:
        self.headers = Headers(scope=scope)
        self.method = scope["method"] if scope["method"] in METHODS else "other"
        # What is there can be asked for its head alone; the server leaves the body out by itself.
        self.scope: Scope = scope if self.method != "HEAD" else dict(scope, method="GET")
        self.peer = f"from {(scope.get('client') or ('nowhere',))[0]}"
        self.id = secrets.token_hex(8)
        self.client: Client = NOBODY
        self.status = 500
        self.limits = limits
        self.budget = budget
        self.reserved: int | None = None
        """Bytes of memory for its body, until it is answered."""
        self.most = LOGIN_BODY if scope["path"] == "/login" else limits.body
        told = self.headers.get("content-length", "0")
        self.told = int(told) if told.isdecimal() else 0
        """Bytes of its body, where it has said how many."""
        self.has_body = self.told > 0 or "transfer-encoding" in self.headers
        self.deadline = time.monotonic() + limits.upload_seconds
        self.more = True
        self.bytes = 0
        self.refused: Refused | None = None
        """Why its body wasn't taken, whatever the application makes of that."""
        self._receive, self._send = receive, send
        self._started = self._over = False

    def check_body(self) -> None:
        """Raises a kind of Refused for a body that needn't be read to see that it is none."""
        if self.has_body and self.method in READING:
            raise Refused(f"a {self.method} request has no body here: send it without one")
        self._check_size()

    def _check_size(self) -> None:
        if max(self.bytes, self.told) > self.most:
            raise TooLarge(f"the body of the request is too large: at most {_bytes(self.most)}")

    async def receive(self) -> Message:
        """The next part of the body, as long as it keeps coming."""
        if not self.more:  # what comes now is that the client is gone, whenever that is
            return await self._receive()
        try:
            return await self._part()
        except Refused as refused:
            self.refused = refused
            raise

    async def _part(self) -> Message:
        if self.has_body and self.reserved is None and self.most > LOGIN_BODY:
            size = self.told or self.most
            self.reserved = await self.budget.take(self.client.name, size)
        wait = min(self.limits.stall_seconds, self.deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, wait))
        except TimeoutError:
            raise Slow("the body of the request came too slowly. Send it again") from None
        self.more = message.get("more_body", False)
        self.bytes += len(message.get("body", b""))
        self._check_size()
        return message

    def end(self) -> None:
        """Release what its body took."""
        if self.reserved is not None:
            self.budget.give_back(self.client.name, self.reserved)

    async def send(self, message: Message) -> None:
        if self.refused is not None:
            await self.refuse(self.refused)
        if not self._over:
            await self._pass(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer in place of the application, unless it has begun to."""
        if not self._started:
            self._over = True
            wants_page = "text/html" in self.headers.get("accept", "")
            answer = refusal(self.scope["path"], refused, self.id, page=wants_page)
            await answer(self.scope, self._receive, self._pass)

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            if self.has_body and self.more:  # the rest of it is not read any more
                headers["connection"] = "close"
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)


def _check_origin(headers: Headers) -> None:
    """A browser says which site's page is calling; whoever has no browser says nothing.

    Raises Foreign.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site not in (None, "same-origin", "none"):
        raise Foreign("pages of other sites may not call this service")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        raise Foreign("pages of other sites may not call this service")


def _check_charset(headers: Headers) -> None:
    """Only UTF-8: some of Python's codecs take time that grows with the square of the length.

    Raises UnsupportedCharset.
    """
    for charset in CHARSET.findall(headers.get("content-type", "").lower()):
        if charset not in ("utf-8", "utf8"):
            raise UnsupportedCharset(f"charset {charset[:40]!r}: send text as utf-8")


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size:,} bytes"


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _cookie(headers: Headers) -> str | None:
    # Not by http.cookies: it takes seconds for a header of backslashes. (CVE-2024-7592)
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.partition("=")
        if name.strip() == COOKIE:
            return value.strip()
    return None


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
