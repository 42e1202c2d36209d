"""Several jobs as they change."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from kinora.serve.errors import Missing, Refused
from kinora.serve.job import Job
from kinora.serve.service import Service

__all__ = ["Queue", "follow"]

LOOK: Final = 2.0
"""Seconds after which it is told anew what a job waits for."""


class Queue(NamedTuple):
    """What a waiting job waits for."""

    ahead: int
    """Jobs before it."""
    workers: int
    """That may take it."""


Seen = tuple[list[Job], dict[str, Queue]]
"""The jobs that there still are, and what each that waits is waiting for."""


async def follow(service: Service, client: str, ids: Sequence[str]) -> AsyncGenerator[Seen]:
    """A client's jobs as they are, then whenever one has changed, until all have ended."""
    jobs = await asyncio.to_thread(_found, service, client, ids)
    yield list(jobs.values()), await asyncio.to_thread(_waiting, service, jobs)
    changed: asyncio.Queue[tuple[str, Job | None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_watch(service, id, changed)) for id in jobs if not jobs[id].ended]
    going = len(tasks)
    try:
        while going:
            with suppress(TimeoutError):
                id, job = await asyncio.wait_for(changed.get(), LOOK)
                if job is None:
                    going -= 1
                    continue
                jobs[id] = job
            with suppress(Refused):  # the database may be back at the next look
                waiting = await asyncio.to_thread(_waiting, service, jobs)
                yield list(jobs.values()), waiting
    finally:
        for task in tasks:
            task.cancel()


async def _watch(service: Service, id: str, changed: asyncio.Queue[tuple[str, Job | None]]) -> None:
    """Pass on what becomes of a job, and that nothing more comes."""
    async for job in service.watch.follow(id):
        changed.put_nowait((id, job))
    changed.put_nowait((id, None))


def _found(service: Service, client: str, ids: Sequence[str]) -> dict[str, Job]:
    found: dict[str, Job] = {}
    for id in ids:
        with suppress(Missing):
            found[id] = service.jobs.get(id, client)
    return found


def _waiting(service: Service, jobs: dict[str, Job]) -> dict[str, Queue]:
    waiting = {id: job for id, job in jobs.items() if job.state == "queued"}
    workers = service.models() if waiting else {}
    return {
        id: Queue(service.jobs.ahead(job), workers.get(job.model, 0)) for id, job in waiting.items()
    }
