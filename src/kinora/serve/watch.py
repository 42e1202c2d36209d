"""Jobs as they change, for all who are watching them: one look at the database for everybody."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Final

import structlog

from kinora.serve.job import Job

__all__ = ["Watch"]

POLL: Final = 0.25
"""Seconds between two looks."""


log = structlog.get_logger()


class Watch:
    """Follows jobs for whoever asks, in one event loop."""

    def __init__(self, fetch: Callable[[Collection[str]], dict[str, Job]]) -> None:
        """fetch: those of some jobs that there are; raises Busy."""
        self.fetch = fetch
        self.watched: Counter[str] = Counter()
        self.asked: frozenset[str] = frozenset()
        self.latest: dict[str, Job] = {}
        self.looked = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None

    async def follow(self, id: str) -> AsyncGenerator[Job]:
        """A job as it is now, then whenever it has changed, until it has ended or is gone."""
        self.watched[id] += 1
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._look())
        last: Job | None = None
        try:
            while last is None or not last.ended:
                async with self.looked:
                    await self.looked.wait()
                if id not in self.asked:  # this look had begun before
                    continue
                job = self.latest.get(id)
                if job is None:
                    return
                if job != last:
                    yield job
                last = job
        finally:
            self.watched[id] -= 1
            self.watched += Counter()  # without those that nobody watches

    async def _look(self) -> None:
        while self.watched:
            try:
                asked = list(self.watched)
                self.latest = await asyncio.to_thread(self.fetch, asked)
                self.asked = frozenset(asked)
                async with self.looked:
                    self.looked.notify_all()
            except Exception as error:  # whatever it is, the next look may tell
                log.warning("look_failed", reason=str(error))
            await asyncio.sleep(POLL)
