"""A bounded amount of memory that the bodies of all requests in progress share."""

import asyncio
from collections import Counter
from typing import NamedTuple

from kinora.serve.errors import Busy

__all__ = ["Budget"]


class Waiter(NamedTuple):
    """A request that waits for room."""

    client: str
    size: int
    granted: asyncio.Future[None]


class Budget:
    """Bytes to be reserved before a body is read. One client gets half of them at most.

    All of a body is reserved at once: two requests that each hold a part of what they need would
    wait for each other. For use within one event loop.
    """

    def __init__(self, total: int, seconds: float) -> None:
        """total: bytes. seconds: for which a request waits for room."""
        self.total = total
        self.share = total // 2
        self.seconds = seconds
        self.used = Counter[str]()
        """Bytes by client."""
        self.waiting: list[Waiter] = []

    async def take(self, client: str, size: int) -> int:
        """Reserve bytes as soon as there is room; how many, to be given back in the end.

        Raises Busy where there is no room in time.
        """
        waiter = Waiter(client, min(size, self.share), asyncio.get_running_loop().create_future())
        self.waiting.append(waiter)
        self._grant()
        try:
            async with asyncio.timeout(self.seconds):
                await waiter.granted
        except TimeoutError:
            raise Busy("too much is being uploaded at once. Try again in a moment") from None
        finally:
            if waiter in self.waiting:
                self.waiting.remove(waiter)
        return waiter.size

    def give_back(self, client: str, size: int) -> None:
        self.used[client] -= size
        self.used += Counter()  # without those that hold nothing
        self._grant()

    def _grant(self) -> None:
        """Give room to those that fit, the first ones first."""
        for waiter in list(self.waiting):
            own = self.used[waiter.client] + waiter.size
            if own <= self.share and self.used.total() + waiter.size <= self.total:
                self.waiting.remove(waiter)
                self.used[waiter.client] += waiter.size
                waiter.granted.set_result(None)
