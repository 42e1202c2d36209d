"""Connections to clients that send or take what there is too slowly, or not at all, are closed."""

import asyncio
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Hurried"]

HEAD_SECONDS: Final = 15.0
"""Until the head of a request has to be there."""
UNREAD_SECONDS: Final = 60.0
"""Until a client has to take some of an answer that waits for it."""


class Hurried(H11Protocol):
    """Uvicorn's protocol, which would wait for as long as the client likes."""

    heading: asyncio.TimerHandle | None = None
    unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 (uvicorn's own type)
        super().connection_made(transport)
        self._hurry()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._hurry()

    def pause_writing(self) -> None:
        """As asyncio has it: more waits to be sent than is to be kept in memory."""
        super().pause_writing()
        # Not closed: that would send what waits first.
        self.unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread = _stopped(self.unread)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.heading, self.unread = _stopped(self.heading), _stopped(self.unread)

    def _hurry(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self.heading = _stopped(self.heading)
        elif self.heading is None:
            self.heading = self.loop.call_later(HEAD_SECONDS, self.transport.close)


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
