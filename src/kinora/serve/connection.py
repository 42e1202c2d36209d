"""Connections to clients that send or take data too slowly, or not at all, are closed."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Hurried"]

HEAD_SECONDS: Final = 15.0
"""Until the head of a request has to be complete."""
UNREAD_SECONDS: Final = 60.0
"""Until a client has to take some of a response that waits for it."""
LINGER_SECONDS: Final = 5.0
"""For which the rest of a request that was answered early is received and dropped."""
PIECE: Final = 2048
"""Bytes parsed in one go, while a chunk may have a single one: parsing all that a socket gives
(256 KiB) would keep every other connection waiting for more than a second."""
LARGE_PIECE: Final = 1 << 16
"""The same for a body of known length, whose bytes are only copied."""
MOST_FRAMING: Final = 1 << 16
"""Bytes of chunk headers after which more than three in four are too many."""


class Closing:
    """A transport that is closed in another way; all else is its own."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.transport = transport
        self.close = close

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self.transport, name)


class Hurried(H11Protocol):
    """Uvicorn's protocol, which would wait for as long as the client likes."""

    heading: asyncio.TimerHandle | None = None
    unread: asyncio.TimerHandle | None = None
    lingering: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 (uvicorn's own type)
        super().connection_made(transport)
        self.socket = transport
        self.transport = Closing(transport, self.close)  # pyright: ignore[reportAttributeAccessIssue]
        self.unparsed = bytearray()
        self.received = self.carried = 0
        """Bytes of the current body as received, and without the headers of its chunks."""
        self._hurry()

    def data_received(self, data: bytes) -> None:
        if self.lingering is not None:
            return
        idle = not self.unparsed
        self.unparsed += data
        if idle:
            self._parse()

    def close(self) -> None:
        """Close the connection. Where a body is still coming that nobody reads, closing at once
        would reset it, and the client might lose the response: it sees the end first, and stops."""
        if self.lingering is None and self.conn.their_state is h11.SEND_BODY:
            self.unparsed.clear()
            self.transport.write_eof()
            self.transport.resume_reading()
            self.lingering = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        elif self.lingering is None:
            self.socket.close()

    def pause_writing(self) -> None:
        """As in asyncio: more waits to be sent than should be kept in memory."""
        super().pause_writing()
        # Not closed: that would send what waits first.
        self.unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread = _stopped(self.unread)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.unparsed.clear()
        self.heading, self.unread = _stopped(self.heading), _stopped(self.unread)
        self.lingering = _stopped(self.lingering)

    def _parse(self) -> None:
        """Parse one piece of what was received; the next one after other connections' turns."""
        if not self.unparsed:  # dropped in the meantime
            return
        in_body = self.conn.their_state is h11.SEND_BODY
        chunked = any(name == b"transfer-encoding" for name, _ in self.headers or ())
        size = LARGE_PIECE if in_body and not chunked else PIECE
        piece = bytes(self.unparsed[:size])
        before, held = self.cycle, len(self.cycle.body) if self.cycle else 0
        super().data_received(piece)
        self._hurry()
        del self.unparsed[:size]
        if self.cycle is not before:
            self.received = self.carried = 0
        elif self.cycle and self.conn.their_state is h11.SEND_BODY:
            self.received += len(piece)
            self.carried += len(self.cycle.body) - held
            if self.received > MOST_FRAMING and 4 * self.carried < self.received:
                self.transport.abort()
        if self.unparsed and not self.transport.is_closing():
            self.loop.call_soon(self._parse)

    def _hurry(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self.heading = _stopped(self.heading)
        elif self.heading is None:
            self.heading = self.loop.call_later(HEAD_SECONDS, self.transport.close)


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
