"""What every request passes, whichever door it is for: the page's own routes too."""

import asyncio
import secrets
import time
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import quote, urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kinora.serve.access import NOBODY, Access, Client, is_loopback
from kinora.serve.errors import Broken, Foreign, Refused, Slow, TooLarge, Unknown
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
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            visit = Visit(scope, receive, send, self.limits)
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

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.headers = Headers(scope=scope)
        self.method = scope["method"] if scope["method"] in METHODS else "other"
        # What is there can be asked for its head alone; the server leaves the body out by itself.
        self.scope: Scope = scope if self.method != "HEAD" else dict(scope, method="GET")
        self.peer = f"from {(scope.get('client') or ('nowhere',))[0]}"
        self.id = secrets.token_hex(8)
        self.client: Client = NOBODY
        self.status = 500
        self.limits = limits
        self.deadline = time.monotonic() + limits.upload_seconds
        self.more = True
        self.bytes = 0
        self.refused: Refused | None = None
        """Why its body wasn't taken, whatever the application makes of that."""
        self._receive, self._send = receive, send
        self._started = self._over = False

    async def receive(self) -> Message:
        """The next part of the body, as long as it keeps coming."""
        if not self.more:  # what comes now is that the client is gone, whenever that is
            return await self._receive()
        wait = min(self.limits.stall_seconds, self.deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, wait))
        except TimeoutError:
            self.refused = Slow("the body of the request came too slowly. Send it again")
            raise self.refused from None
        self.more = message.get("more_body", False)
        self.bytes += len(message.get("body", b""))
        told = self.headers.get("content-length", "0")
        if max(self.bytes, int(told) if told.isdecimal() else 0) > self.limits.body:
            most = self.limits.body >> 20
            self.refused = TooLarge(f"the body of the request is too large: at most {most} MiB")
            raise self.refused
        return message

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


def _bearer(headers: Headers) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _cookie(headers: Headers) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return found.value if found else None


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
