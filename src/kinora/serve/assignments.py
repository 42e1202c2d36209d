"""The table of jobs, as a worker changes it. Every change is one transaction."""

from typing import Final

import sqlalchemy as sa

from kinora.serve import rows
from kinora.serve.database import Database, jobs
from kinora.serve.errors import Superseded
from kinora.serve.job import Job, State

__all__ = ["MAX_DEATHS", "Assignments"]

MAX_DEATHS: Final = 2
"""Of workers at one job, after which it isn't tried again."""

KILLED: Final = {
    "code": "worker_died",
    "message": f"{MAX_DEATHS} workers died while they made it, perhaps for want of memory. "
    "Ask for a smaller or shorter clip",
}


class Assignments:
    """The jobs that one worker is given. Everything raises Busy where the database is away."""

    def __init__(self, database: Database, executor: str) -> None:
        """executor: the worker's name, which no other one ever had."""
        self.database = database
        self.executor = executor

    def begin(self, id: str) -> Job | None:
        """Take a job; None where there is nothing left to do.

        A worker that had it and didn't give it back died of something: after `MAX_DEATHS` the job
        has failed.
        """
        with self.database.begin() as c:
            job = rows.found(c, jobs.select().where(jobs.c.id == id).with_for_update())
            if job is None or job.ended:
                return None
            deaths = job.deaths + (job.executor not in (None, self.executor))
            if job.cancelling:
                rows.end(self.database, c, id, "cancelled")
                return None
            if deaths >= MAX_DEATHS:
                rows.end(self.database, c, id, "failed", deaths=deaths, error=KILLED)
                return None
            begun = jobs.update().where(jobs.c.id == id)
            begun = begun.values(
                state="running",
                executor=self.executor,
                deaths=deaths,
                seconds_left=None,
                started=sa.func.coalesce(jobs.c.started, self.database.now),
            )
            return rows.found(c, begun.returning(jobs))

    def tell(self, id: str, **values: object) -> bool:
        """Note how far it has come. Whether it is to go on.

        Raises Superseded when another worker has the job by now.
        """
        mine = (jobs.c.id == id, jobs.c.executor == self.executor, jobs.c.state == "running")
        with self.database.begin() as c:
            change = jobs.update().where(*mine).values(**values).returning(jobs.c.cancelling)
            row = c.execute(change).one_or_none()
        if row is None:
            raise Superseded(f"job {id}: another worker has it")
        return not row.cancelling

    def end(self, id: str, state: State, **values: object) -> None:
        """Be done with a job. Raises Superseded when another worker has it by now."""
        with self.database.begin() as c:
            if not rows.end(self.database, c, id, state, executor=self.executor, **values):
                raise Superseded(f"job {id}: another worker has it")

    def give_back(self) -> None:
        """Have whatever is being made here wait again: this worker leaves in good order."""
        with self.database.begin() as c:
            c.execute(
                jobs.update()
                .where(jobs.c.executor == self.executor, jobs.c.state == "running")
                .values(executor=None, state="queued")
            )
