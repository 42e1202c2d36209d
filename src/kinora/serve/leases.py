"""The table of jobs, as a worker changes it. Every change is one transaction."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from kinora.serve import rows
from kinora.serve.database import Database, jobs, living, workers
from kinora.serve.errors import LeaseLost
from kinora.serve.job import ENDED, Job, State

__all__ = ["MAX_DEATHS", "Lease", "Leases", "requeue"]

MAX_DEATHS: Final = 2
"""Of workers at one job, after which it isn't tried again."""

KILLED: Final = {
    "code": "worker_died",
    "message": f"{MAX_DEATHS} workers died while they made it, perhaps for want of memory. "
    "Ask for a smaller or shorter clip",
}


class Lease(NamedTuple):
    """A job that a worker has taken, or found to be over."""

    job: Job
    anew: bool
    """Whether another kind of worker had begun it: what that one computed is of no use here."""


class Leases:
    """The jobs that one worker takes. Everything raises Busy where the database is away."""

    def __init__(self, database: Database, executor: str, model: str, binding: str) -> None:
        """executor: the worker's name, which no other one ever had.

        binding: the weights and the precision that it computes with.
        """
        self.database = database
        self.executor = executor
        self.model = model
        self.binding = binding

    def take(self) -> Lease | None:
        """The next job that is for this worker; None where there is none.

        A job keeps the binding of the worker that first took it. Workers of another one take it
        only when none of its own is alive.
        """
        with self.database.read() as c:  # which takes no lock: idle workers look often
            if c.execute(self._next()).first() is None:
                return None
        with self.database.begin() as c:
            job = rows.found(c, self._next().with_for_update(skip_locked=True))
            if job is None:  # another worker was quicker
                return None
            if job.cancelling:
                return self._over(c, job, "cancelled")
            if job.deaths >= MAX_DEATHS:
                return self._over(c, job, "failed", error=KILLED)
            change = jobs.update().where(jobs.c.id == job.id)
            change = change.values(
                state="running",
                executor=self.executor,
                binding=self.binding,
                seconds_left=None,
                started=sa.func.coalesce(jobs.c.started, self.database.now),
            )
            taken = rows.there(job.id, rows.found(c, change.returning(jobs)))
            return Lease(taken, anew=job.binding not in (None, self.binding))

    def report(self, id: str, **values: object) -> bool:
        """Store how far a job has come. Whether it is to go on.

        Raises LeaseLost when another worker has the job by now.
        """
        mine = (jobs.c.id == id, jobs.c.executor == self.executor, jobs.c.state == "running")
        with self.database.begin() as c:
            change = jobs.update().where(*mine).values(**values).returning(jobs.c.cancelling)
            row = c.execute(change).one_or_none()
        if row is None:
            raise LeaseLost(f"job {id}: another worker has it")
        return not row.cancelling

    def end(self, id: str, state: State, **values: object) -> None:
        """Be done with a job. Raises LeaseLost when another worker has it by now."""
        with self.database.begin() as c:
            if not rows.end(self.database, c, id, state, executor=self.executor, **values):
                raise LeaseLost(f"job {id}: another worker has it")

    def is_over(self, id: str) -> bool:
        """Whether a job has ended, whoever ended it."""
        query = sa.select(jobs.c.id).where(jobs.c.id == id, jobs.c.state.not_in(ENDED))
        with self.database.read() as c:
            return c.execute(query).first() is None

    def give_back(self) -> None:
        """Have whatever is being made here wait again: this worker leaves in good order."""
        with self.database.begin() as c:
            requeue(c, [self.executor], deaths=0)

    def _over(
        self, c: sa.Connection, job: Job, state: State, error: dict[str, str] | None = None
    ) -> Lease:
        rows.end(self.database, c, job.id, state, error=error)
        ended = rows.found(c, jobs.select().where(jobs.c.id == job.id))
        return Lease(rows.there(job.id, ended), anew=False)

    def _next(self) -> sa.Select[tuple[object, ...]]:
        others = sa.select(workers.c.binding).where(
            living(self.database), workers.c.model == self.model, workers.c.binding.is_not(None)
        )
        for_us = sa.or_(
            jobs.c.binding.is_(None),
            jobs.c.binding == self.binding,
            jobs.c.binding.not_in(others),
        )
        query = jobs.select().where(jobs.c.state == "queued", jobs.c.model == self.model, for_us)
        return query.order_by(jobs.c.turn, jobs.c.created).limit(1)


def requeue(c: sa.Connection, executors: Sequence[str], *, deaths: int) -> None:
    """Have the jobs of workers wait again.

    deaths: how many workers each of them has died of now, more than before.
    """
    change = jobs.update().where(jobs.c.executor.in_(executors), jobs.c.state == "running")
    c.execute(change.values(state="queued", executor=None, deaths=jobs.c.deaths + deaths))
