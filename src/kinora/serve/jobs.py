"""The table of jobs, as clients see and change it. Every change is one transaction."""

import re
from collections.abc import Collection
from dataclasses import asdict
from itertools import accumulate
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from kinora.serve import rows
from kinora.serve.database import Database, jobs
from kinora.serve.errors import Conflict, Full
from kinora.serve.job import ENDED, Job, Order, State

__all__ = ["Jobs", "Page"]

LARGEST_PAGE: Final = 1 << 20
"""Characters that a page of jobs may take; each has one job at least."""


class Page(NamedTuple):
    """Some of a client's jobs."""

    jobs: list[Job]
    more: bool
    """Whether others come after them."""


class Jobs:
    """Jobs and their states. Everything raises Busy where the database is away."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def submit(self, order: Order, *, queue: int, per_client: int) -> tuple[Job, bool]:
        """A new job, or the one that the client made under this key before; whether it is new.

        queue, per_client: how many jobs may wait in all, and of one client.
        Raises Full, or Conflict where something else was asked for under the key.
        """
        with self.database.begin() as c:
            self.database.lock(c, "kinora_jobs")
            known = self._under_key(c, order)
            if known is not None:
                return known, False
            self._check_room(c, order.client, queue, per_client)
            return self._insert(c, order), True

    def get(self, id: str, client: str | None = None) -> Job:
        """A job; of this client, where one is given. Raises Missing."""
        with self.database.read() as c:
            return rows.there(id, rows.found(c, self._named(id, client)))

    def several(self, ids: Collection[str]) -> dict[str, Job]:
        """Those of these that there are."""
        with self.database.read() as c:
            found = rows.found_all(c, jobs.select().where(jobs.c.id.in_(ids)))
        return {job.id: job for job in found}

    def find(
        self,
        client: str,
        *,
        door: str | None = None,
        after: str | None = None,
        limit: int = 50,
        oldest_first: bool = False,
    ) -> Page:
        """A client's jobs, those that come after a job in this order. Raises Missing.

        limit: how many at most. Fewer come where they are large.
        """
        place = sa.tuple_(jobs.c.created, jobs.c.id)
        texts = (jobs.c.asked, jobs.c.notes, jobs.c.error, jobs.c.result)
        lengths = (sa.func.coalesce(sa.func.length(sa.cast(text, sa.Text)), 0) for text in texts)
        query = self._visible(client).with_only_columns(jobs.c.id, sum(lengths, sa.literal(0)))
        query = query.limit(limit + 1)
        query = query.order_by(*(p if oldest_first else p.desc() for p in place))
        if door is not None:
            query = query.where(jobs.c.door == door)
        if after is not None:
            last = self.get(after, client)
            mark = sa.tuple_(last.created, last.id)
            query = query.where(place > mark if oldest_first else place < mark)
        with self.database.read() as c:
            sizes = dict(c.execute(query).all())
        sums = accumulate(sizes.values())
        fitting = sum(total <= LARGEST_PAGE for total in sums)
        ids = list(sizes)[: min(limit, max(1, fitting))]
        there = self.several(ids)
        return Page([there[id] for id in ids if id in there], more=len(sizes) > len(ids))

    def ahead(self, job: Job) -> int:
        """How many jobs are before a waiting one."""
        place = sa.tuple_(jobs.c.turn, jobs.c.created)
        query = sa.select(sa.func.count()).where(
            jobs.c.state == "queued",
            jobs.c.model == job.model,
            place < sa.tuple_(job.turn, job.created),
        )
        with self.database.read() as c:
            return c.scalar(query) or 0

    def cancel(self, id: str, client: str | None = None) -> Job:
        """Have a job stopped: at once where it waits, else by its worker within a step.

        Raises Missing, or Conflict for a job that has ended otherwise.
        """
        with self.database.begin() as c:
            query = self._named(id, client)
            job = rows.there(id, rows.found(c, query.with_for_update()))
            if job.state == "cancelled":
                return job
            if job.ended:
                raise Conflict(f"job {id}: it has {job.state} already")
            if job.state == "queued":
                rows.end(self.database, c, id, "cancelled", cancelling=True)
            else:
                c.execute(jobs.update().where(jobs.c.id == id).values(cancelling=True))
            return rows.there(id, rows.found(c, query))

    def hide(self, id: str, client: str | None = None) -> Job:
        """Have nobody see a job any more; one that has not ended is cancelled. Raises Missing."""
        job = self.get(id, client)
        if not job.ended:
            try:
                job = self.cancel(id, client)
            except Conflict:  # it ended just now
                job = self.get(id, client)
        with self.database.begin() as c:
            c.execute(jobs.update().where(jobs.c.id == id).values(hidden=True, key=None))
        return job

    def forget(self, id: str) -> None:
        with self.database.begin() as c:
            c.execute(jobs.delete().where(jobs.c.id == id, jobs.c.state.in_(ENDED)))

    def outdated(self, keep_bytes: int) -> list[str]:
        """Ended jobs that are to go: hidden ones, those kept long enough, and the oldest where
        all take more room than this."""
        ended = jobs.c.state.in_(ENDED)
        over = sa.or_(jobs.c.hidden, jobs.c.finished + jobs.c.keep < self.database.now)
        rest = sa.select(jobs.c.id, jobs.c.bytes).where(ended, ~over)
        with self.database.read() as c:
            gone = list(c.scalars(sa.select(jobs.c.id).where(ended, over)))
            total = sa.select(sa.func.sum(jobs.c.bytes)).where(ended, ~over)
            too_much = int(c.scalar(total) or 0) - keep_bytes
            for id, size in c.execute(rest.order_by(jobs.c.finished)):
                if too_much <= 0:
                    break
                gone.append(id)
                too_much -= size
        return gone

    def weigh(self, id: str, size: int) -> None:
        """Note how much room its files take."""
        with self.database.begin() as c:
            c.execute(jobs.update().where(jobs.c.id == id).values(bytes=size))

    def counts(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        query = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
        with self.database.read() as c:
            return dict(c.execute(query).all())

    def _named(self, id: str, client: str | None) -> sa.Select[Any]:
        """Raises Missing for what can be no name of a job, which a database may choke on."""
        if not re.fullmatch("[0-9a-f]{64}", id):
            rows.there(id, None)
        return self._visible(client).where(jobs.c.id == id)

    def _visible(self, client: str | None) -> sa.Select[Any]:
        query = jobs.select().where(jobs.c.hidden.is_(False))
        return query if client is None else query.where(jobs.c.client == client)

    def _under_key(self, c: sa.Connection, order: Order) -> Job | None:
        if order.key is None:
            return None
        job = rows.found(
            c, jobs.select().where(jobs.c.client == order.client, jobs.c.key == order.key)
        )
        if job is not None and job.digest != order.digest:
            raise Conflict(
                f"idempotency key {order.key!r}: something else was asked for under it. "
                "Use another key"
            )
        return job

    def _check_room(self, c: sa.Connection, client: str, queue: int, per_client: int) -> None:
        waiting = sa.func.count()
        own = waiting.filter(jobs.c.client == client)
        query = sa.select(waiting, own).where(jobs.c.state == "queued")
        of_all, of_client = c.execute(query).one()
        if of_all >= queue:
            raise Full(f"{queue} jobs wait already. Try again later")
        if of_client >= per_client:
            raise Full(f"{per_client} of your jobs wait already. Try again later")

    def _insert(self, c: sa.Connection, order: Order) -> Job:
        """Start-time fair queueing: a client's next job follows its last one, and nobody's comes
        before those that were begun already. (Goyal, Vin & Cheng 1996)"""
        last = sa.select(sa.func.max(jobs.c.turn)).where(jobs.c.model == order.model)
        begun = last.where(jobs.c.started.is_not(None)).scalar_subquery()
        own = last.where(jobs.c.client == order.client).scalar_subquery()
        now, begun, own = c.execute(sa.select(self.database.now, begun, own)).one()
        values = {
            **asdict(order),
            "state": "queued",
            "turn": max(begun or 1, (own or 0) + 1),
            "created": now,
            "deaths": 0,
            "cancelling": False,
            "hidden": False,
            "step": 0,
            "steps": 0,
            "previews": 0,
        }
        return rows.there(order.id, rows.found(c, jobs.insert().values(values).returning(jobs)))
