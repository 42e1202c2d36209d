"""Programs that use a service: they send photos, look how their jobs are, and don't give up."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

__all__ = ["Client", "Tally"]

JOBS = "/api/v1/jobs"
LOOK = 4.0
"""Seconds between two looks of a client at its jobs, on average."""
LISTS = 0.2
"""Of the looks, which are at all jobs rather than one."""
TWICE = 20
"""One of so many jobs is asked for twice under its key."""
ENDED = ("succeeded", "failed", "cancelled")


@dataclass
class Tally:
    """What all clients have seen."""

    accepted: dict[str, int] = field(default_factory=dict[str, int])
    """Ids of jobs, and the seeds that they were asked for with."""
    ended: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    """State and time of each job's end, when a client first heard of it."""
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of requests that were answered as they should be, by their kinds."""
    retried: Counter[str] = field(default_factory=Counter[str])
    """Why requests were made again."""
    faults: list[str] = field(default_factory=list[str])

    @property
    def in_flight(self) -> int:
        return len(self.accepted) - len(self.ended)


@dataclass
class Client:
    """One of them."""

    http: httpx.AsyncClient
    tally: Tally
    random: random.Random
    photo: bytes
    asked: Mapping[str, str]
    """What all its jobs have in common."""
    seeds: Sequence[int]
    """Of the jobs that it is to ask for."""
    pause: float
    """Seconds between two of them, on average."""
    mine: list[str] = field(default_factory=list[str])
    """Jobs that have not ended as far as it knows, the oldest first."""

    async def run(self) -> None:
        """Until all its jobs have ended."""
        asking = asyncio.create_task(self._ask())
        while not asking.done() or self.mine:
            await asyncio.sleep(self.random.uniform(0.5, 1.5) * LOOK)
            await self._look()
        await asking

    async def _ask(self) -> None:
        for seed in self.seeds:
            await asyncio.sleep(self.random.uniform(0, 2 * self.pause))
            id = await self._submit(seed)
            self.mine.append(id)
            self.tally.accepted[id] = seed
            if seed % TWICE == 0 and await self._submit(seed) != id:
                self.tally.faults.append(f"seed {seed}: two jobs under one key")

    async def _submit(self, seed: int) -> str:
        answer = await self._call(
            "submit",
            "POST",
            JOBS,
            data={**self.asked, "seed": str(seed)},
            files={"photo": ("photo.jpg", self.photo, "image/jpeg")},
            headers={"idempotency-key": f"seed {seed}"},
        )
        return answer.json()["id"]

    async def _look(self) -> None:
        """At one job, now and then at all, and at the clips that are new."""
        if self.random.random() < LISTS:
            seen = (await self._call("list", "GET", JOBS)).json()["jobs"]
        elif self.mine:
            seen = [(await self._call("get", "GET", f"{JOBS}/{self.mine[0]}")).json()]
        else:
            return
        for job in seen:
            if job["id"] in self.mine and job["state"] in ENDED:
                self.mine.remove(job["id"])
                self.tally.ended[job["id"]] = (job["state"], job["finished"])
                if job["state"] == "succeeded":
                    await self._call("clip", "GET", job["links"]["clip"])

    async def _call(self, kind: str, method: str, path: str, **what: Any) -> httpx.Response:  # noqa: ANN401 (httpx's own)
        """A request that is made until it is answered as it should be."""
        while True:
            start = time.perf_counter()
            try:
                answer = await self.http.request(method, path, **what)
            except httpx.TransportError as error:  # the service is being started anew
                self.tally.retried[type(error).__name__] += 1
                await asyncio.sleep(self.random.uniform(0.2, 1.0))
                continue
            if answer.is_success:
                self.tally.seconds[kind].append(time.perf_counter() - start)
                return answer
            self.tally.retried[f"{kind} {answer.status_code}"] += 1
            if answer.status_code not in (429, 503):
                self.tally.faults.append(f"{kind}: {answer.status_code} {answer.text[:300]}")
            await asyncio.sleep(1)
