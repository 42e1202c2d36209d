"""Fair turns: work of which little is done at a time, for many clients."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from threading import Lock

from kinora.serve.errors import Busy

__all__ = ["Turns"]


class Turns:
    """Places that clients take in turn, each client only some of them at a time.

    A free place goes to the client that was given one the longest ago, so that a client with many
    requests delays nobody but itself.
    """

    def __init__(self, places: int, *, each: int, waiting: int, seconds: float) -> None:
        """each: places of one client at a time. waiting: requests of one client that may wait.

        seconds: how long they wait.
        """
        self.free = places
        self.each = each
        self.waiting = waiting
        self.seconds = seconds
        self.lock = Lock()
        self.taken: Counter[str] = Counter()
        self.queues: dict[str, deque[Future[None]]] = {}
        """Of those who wait, by client; whose turn comes first is first."""

    @contextmanager
    def turn(self, client: str) -> Generator[None]:
        """A place, for as long as the context lasts. Raises Busy where it takes too long."""
        place = self._claim(client)
        try:
            place.result(self.seconds)
        except TimeoutError:
            raise self._withdraw(client, place) from None
        try:
            yield
        finally:
            self._release(client)

    @asynccontextmanager
    async def awaited(self, client: str) -> AsyncGenerator[None]:
        """The same on an event loop: who waits takes no thread."""
        place = self._claim(client)
        try:
            async with asyncio.timeout(self.seconds):
                await asyncio.shield(asyncio.wrap_future(place))
        except TimeoutError:
            raise self._withdraw(client, place) from None
        except asyncio.CancelledError:
            self._withdraw(client, place)
            raise
        try:
            yield
        finally:
            self._release(client)

    def _claim(self, client: str) -> Future[None]:
        """A place as soon as there is one. Raises Busy when too many wait for one already."""
        place: Future[None] = Future()
        with self.lock:
            queue = self.queues.setdefault(client, deque())
            if len(queue) >= self.waiting:
                raise Busy(f"{self.waiting} photos of yours wait to be opened. Try again later")
            queue.append(place)
            self._grant()
        return place

    def _withdraw(self, client: str, place: Future[None]) -> Busy:
        """Wait no longer; a place that was given meanwhile goes back."""
        with self.lock:
            queue = self.queues.get(client, deque())
            if place in queue:
                queue.remove(place)
                if not queue:
                    del self.queues[client]
                return Busy("too many photos are being opened. Try again in a moment")
        self._release(client)
        return Busy("too many photos are being opened. Try again in a moment")

    def _release(self, client: str) -> None:
        with self.lock:
            self.free += 1
            self.taken[client] -= 1
            if not self.taken[client]:
                del self.taken[client]
            self._grant()

    def _grant(self) -> None:
        """Give free places to those whose turn it is."""
        while self.free:
            client = next((c for c in self.queues if self.taken[c] < self.each), None)
            if client is None:
                return
            queue = self.queues.pop(client)
            place = queue.popleft()
            if queue:  # behind the others
                self.queues[client] = queue
            self.free -= 1
            self.taken[client] += 1
            place.set_result(None)
