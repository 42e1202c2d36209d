"""Rows of the table of jobs, as jobs."""

import sqlalchemy as sa

from kinora.serve.database import Database, jobs
from kinora.serve.errors import Missing
from kinora.serve.job import ENDED, Job, State

__all__ = ["end", "found", "found_all", "there"]


def found(c: sa.Connection, statement: sa.Executable) -> Job | None:
    """The job that a statement finds, if any."""
    row = c.execute(statement).mappings().one_or_none()
    return None if row is None else Job(**row)


def found_all(c: sa.Connection, statement: sa.Executable) -> list[Job]:
    """All jobs that a statement finds."""
    return [Job(**row) for row in c.execute(statement).mappings()]


def there(id: str, job: Job | None) -> Job:
    """Raises Missing where there is none."""
    if job is None:
        raise Missing(f"job {id[:64]!r}: there is none of this name. It may have been deleted")
    return job


def end(
    database: Database,
    c: sa.Connection,
    id: str,
    state: State,
    *,
    executor: str | None = None,
    **values: object,
) -> bool:
    """End a job that had not ended before, and that the executor has where one is named.

    Whether there was such a job. values: other columns, which change with it.
    """
    query = jobs.update().where(jobs.c.id == id, jobs.c.state.not_in(ENDED))
    if executor is not None:
        query = query.where(jobs.c.executor == executor)
    change = query.values(state=state, finished=database.now, seconds_left=None, **values)
    return c.execute(change.returning(jobs.c.id)).one_or_none() is not None
