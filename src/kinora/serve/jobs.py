"""The table of jobs. Every change of a job's state is here, each in one transaction."""

import re
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import exc

from kinora.serve.database import clock, jobs
from kinora.serve.errors import Busy, Conflict, Full, Missing, Superseded
from kinora.serve.job import ENDED, Job, Order, State

__all__ = ["MAX_DEATHS", "Enqueue", "Jobs"]

MAX_DEATHS: Final = 2
"""Of workers at one job, after which it isn't tried again."""

KILLED: Final = {
    "code": "worker_died",
    "message": f"{MAX_DEATHS} workers died while they made it, perhaps for want of memory. "
    "Ask for a smaller or shorter clip",
}

Enqueue = Callable[[sa.Connection, Job], None]
"""Puts a job into the queue, as part of the transaction that makes it."""


class Jobs:
    """Jobs and their states."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.now = clock(engine)

    def submit(
        self, order: Order, enqueue: Enqueue, *, queue: int, per_client: int
    ) -> tuple[Job, bool]:
        """A new job, or the one that the client made under this key before; whether it is new.

        queue, per_client: how many jobs may wait in all, and of one client.
        Raises Full, Busy, or Conflict where something else was asked for under the key.
        """
        try:
            with self._begin() as c:
                known = self._under_key(c, order)
                if known is not None:
                    return known, False
                self._check_room(c, order.client, queue, per_client)
                job = self._insert(c, order)
                enqueue(c, job)
                return job, True
        except exc.IntegrityError:  # the same key came at the same time
            with self._read() as c:
                known = self._under_key(c, order)
            if known is None:
                raise
            return known, False

    def get(self, id: str, client: str | None = None) -> Job:
        """A job; of this client, where one is given. Raises Missing."""
        with self._read() as c:
            return _there(id, _one(c, self._named(id, client)))

    def several(self, ids: Collection[str]) -> dict[str, Job]:
        """Those of these that there are."""
        with self._read() as c:
            return {job.id: job for job in _all(c, jobs.select().where(jobs.c.id.in_(ids)))}

    def find(
        self,
        client: str,
        *,
        door: str | None = None,
        after: str | None = None,
        limit: int = 50,
        oldest_first: bool = False,
    ) -> list[Job]:
        """A client's jobs, those that come after a job in this order. Raises Missing."""
        place = sa.tuple_(jobs.c.created, jobs.c.id)
        query = self._visible(client).limit(limit)
        query = query.order_by(*(p if oldest_first else p.desc() for p in place))
        if door is not None:
            query = query.where(jobs.c.door == door)
        if after is not None:
            last = self.get(after, client)
            mark = sa.tuple_(last.created, last.id)
            query = query.where(place > mark if oldest_first else place < mark)
        with self._read() as c:
            return _all(c, query)

    def ahead(self, job: Job) -> int:
        """How many jobs are before a waiting one."""
        place = sa.tuple_(jobs.c.turn, jobs.c.created)
        query = sa.select(sa.func.count()).where(
            jobs.c.state == "queued",
            jobs.c.model == job.model,
            place < sa.tuple_(job.turn, job.created),
        )
        with self._read() as c:
            return c.scalar(query) or 0

    def begin(self, id: str, executor: str) -> Job | None:
        """Give a job to a worker; None where there is nothing left to do.

        A worker that had it and didn't give it back died of something: after `MAX_DEATHS` the job
        has failed.
        """
        with self._begin() as c:
            job = _one(c, jobs.select().where(jobs.c.id == id).with_for_update())
            if job is None or job.ended:
                return None
            deaths = job.deaths + (job.executor not in (None, executor))
            if job.cancelling:
                self._end(c, id, "cancelled")
                return None
            if deaths >= MAX_DEATHS:
                self._end(c, id, "failed", deaths=deaths, error=KILLED)
                return None
            begun = jobs.update().where(jobs.c.id == id)
            begun = begun.values(
                state="running",
                executor=executor,
                deaths=deaths,
                seconds_left=None,
                started=sa.func.coalesce(jobs.c.started, self.now),
            )
            return _one(c, begun.returning(jobs))

    def give_back(self, executor: str) -> None:
        """A worker that leaves in good order gives its job back."""
        with self._begin() as c:
            c.execute(
                jobs.update()
                .where(jobs.c.executor == executor, jobs.c.state == "running")
                .values(executor=None, state="queued")
            )

    def tell(self, id: str, executor: str, **values: object) -> bool:
        """Note how far a worker has come. Whether it is to go on.

        Raises Superseded when another worker has the job by now.
        """
        mine = (jobs.c.id == id, jobs.c.executor == executor, jobs.c.state == "running")
        with self._begin() as c:
            change = jobs.update().where(*mine).values(**values).returning(jobs.c.cancelling)
            row = c.execute(change).one_or_none()
        if row is None:
            raise Superseded(f"job {id}: another worker has it")
        return not row.cancelling

    def end(self, id: str, executor: str, state: State, **values: object) -> None:
        """A worker is done with a job. Raises Superseded when another one has it by now."""
        with self._begin() as c:
            if not self._end(c, id, state, executor=executor, **values):
                raise Superseded(f"job {id}: another worker has it")

    def cancel(self, id: str, client: str | None = None) -> Job:
        """Have a job stopped: at once where it waits, else by its worker within a step.

        Raises Missing, or Conflict for a job that has ended otherwise.
        """
        with self._begin() as c:
            query = self._named(id, client)
            job = _there(id, _one(c, query.with_for_update()))
            if job.state == "cancelled":
                return job
            if job.ended:
                raise Conflict(f"job {id}: it has {job.state} already")
            if job.state == "queued":
                self._end(c, id, "cancelled", cancelling=True)
            else:
                c.execute(jobs.update().where(jobs.c.id == id).values(cancelling=True))
            return _there(id, _one(c, query))

    def hide(self, id: str, client: str | None = None) -> Job:
        """Have nobody see a job any more; one that has not ended is cancelled. Raises Missing."""
        job = self.get(id, client)
        if not job.ended:
            try:
                job = self.cancel(id, client)
            except Conflict:  # it ended just now
                job = self.get(id, client)
        with self._begin() as c:
            c.execute(jobs.update().where(jobs.c.id == id).values(hidden=True, key=None))
        return job

    def forget(self, id: str) -> None:
        with self._begin() as c:
            c.execute(jobs.delete().where(jobs.c.id == id, jobs.c.state.in_(ENDED)))

    def outdated(self, keep_bytes: int) -> list[str]:
        """Ended jobs that are to go: hidden ones, those kept long enough, and the oldest where
        all take more room than this."""
        ended = jobs.c.state.in_(ENDED)
        over = sa.or_(jobs.c.hidden, jobs.c.finished + jobs.c.keep < self.now)
        rest = sa.select(jobs.c.id, jobs.c.bytes).where(ended, ~over)
        with self._read() as c:
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
        with self._begin() as c:
            c.execute(jobs.update().where(jobs.c.id == id).values(bytes=size))

    def counts(self) -> dict[State, int]:
        """How many jobs there are in each state."""
        query = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
        with self._read() as c:
            return dict(c.execute(query).all())

    def _named(self, id: str, client: str | None) -> sa.Select[Any]:
        """Raises Missing for what can be no name of a job, which a database may choke on."""
        if not re.fullmatch("[0-9a-f]{64}", id):
            _there(id, None)
        return self._visible(client).where(jobs.c.id == id)

    def _visible(self, client: str | None) -> sa.Select[Any]:
        query = jobs.select().where(jobs.c.hidden.is_(False))
        return query if client is None else query.where(jobs.c.client == client)

    def _under_key(self, c: sa.Connection, order: Order) -> Job | None:
        if order.key is None:
            return None
        job = _one(c, jobs.select().where(jobs.c.client == order.client, jobs.c.key == order.key))
        if job is not None and job.digest != order.digest:
            raise Conflict(
                f"idempotency key {order.key!r}: something else was asked for under it. "
                "Use another key"
            )
        return job

    def _check_room(self, c: sa.Connection, client: str, queue: int, per_client: int) -> None:
        if c.dialect.name == "postgresql":  # one asks at a time, as on SQLite all who write do
            c.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext("kinora_jobs"))))
        waiting = sa.select(sa.func.count()).where(jobs.c.state == "queued")
        if (c.scalar(waiting) or 0) >= queue:
            raise Full(f"{queue} jobs wait already. Try again later")
        if (c.scalar(waiting.where(jobs.c.client == client)) or 0) >= per_client:
            raise Full(f"{per_client} of your jobs wait already. Try again later")

    def _insert(self, c: sa.Connection, order: Order) -> Job:
        values = {
            **asdict(order),
            "state": "queued",
            "turn": self._turn(c, order),
            "created": c.scalar(sa.select(self.now)),
            "deaths": 0,
            "cancelling": False,
            "hidden": False,
            "step": 0,
            "steps": 0,
            "previews": 0,
        }
        return _there(order.id, _one(c, jobs.insert().values(values).returning(jobs)))

    def _turn(self, c: sa.Connection, order: Order) -> int:
        """Start-time fair queueing: a client's next job follows its last one, and nobody's comes
        before those that were begun already. (Goyal, Vin & Cheng 1996)"""
        last = sa.select(sa.func.max(jobs.c.turn)).where(jobs.c.model == order.model)
        begun = c.scalar(last.where(jobs.c.started.is_not(None))) or 1
        own = c.scalar(last.where(jobs.c.client == order.client)) or 0
        return max(begun, own + 1)

    def _end(self, c: sa.Connection, id: str, state: State, **values: object) -> bool:
        """Whether the job had not ended before, and `executor` (where given) has it."""
        query = jobs.update().where(jobs.c.id == id, jobs.c.state.not_in(ENDED))
        if "executor" in values:
            query = query.where(jobs.c.executor == values.pop("executor"))
        change = query.values(state=state, finished=self.now, seconds_left=None, **values)
        return c.execute(change.returning(jobs.c.id)).one_or_none() is not None

    @contextmanager
    def _begin(self) -> Generator[sa.Connection]:
        """A transaction. Raises Busy where the database is locked, full or away."""
        with _reachable(), self.engine.begin() as c:
            if self.engine.dialect.name == "sqlite":  # before reading what is to be changed
                c.exec_driver_sql("BEGIN IMMEDIATE")
            yield c

    @contextmanager
    def _read(self) -> Generator[sa.Connection]:
        with _reachable(), self.engine.connect() as c:
            yield c


@contextmanager
def _reachable() -> Generator[None]:
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        raise Busy(
            "the database is locked, full or can't be reached. Try again in a moment"
        ) from error


def _one(c: sa.Connection, statement: sa.Executable) -> Job | None:
    row = c.execute(statement).mappings().one_or_none()
    return None if row is None else Job(**row)


def _all(c: sa.Connection, statement: sa.Executable) -> list[Job]:
    return [Job(**row) for row in c.execute(statement).mappings()]


def _there(id: str, job: Job | None) -> Job:
    if job is None:
        raise Missing(f"job {id[:64]!r}: there is none of this name. It may have been deleted")
    return job
