"""Workers show that they are alive, and notice which of the others are not any more.

Each beats once a second, by the database's clock. Who sees that another one has been silent puts
its jobs back into the queue.
"""

import threading

import sqlalchemy as sa
import structlog

from kinora.serve.database import SILENCE, Database, jobs, living, workers
from kinora.serve.leases import requeue

__all__ = ["Heartbeat", "count_workers"]

BEAT = 1.0
"""Seconds."""

log = structlog.get_logger()


class Heartbeat:
    """One worker's beats. The first one is done when this is made: before any job is taken."""

    def __init__(self, database: Database, executor: str, model: str, binding: str) -> None:
        self.database = database
        self.mine = {"executor": executor, "model": model, "binding": binding}
        self.last = 0.0
        self.regular = 0
        """Beats in a row that were on time. One who was away can't tell who else was."""
        self.beat()

    def start(self) -> None:
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(BEAT):
            try:
                self.beat()
            except Exception as error:  # whatever it is, the next beat may work
                self.regular = 0
                log.warning("beat_failed", reason=str(error))

    def beat(self) -> None:
        with self.database.begin() as c:
            mine = workers.update().where(workers.c.executor == self.mine["executor"])
            if not c.execute(mine.values(beat=self.database.now)).rowcount:
                c.execute(workers.insert().values(self.mine | {"beat": self.database.now}))
            now: float = c.scalar(sa.select(self.database.now)) or 0.0
            self.regular = self.regular + 1 if now - self.last < 2 * BEAT else 0
            self.last = now
            if self.regular > SILENCE / BEAT:
                self._requeue_lost(c)

    def leave(self) -> None:
        with self.database.begin() as c:
            c.execute(workers.delete().where(workers.c.executor == self.mine["executor"]))

    def _requeue_lost(self, c: sa.Connection) -> None:
        """Put the jobs of workers that are silent, or not there at all, back into the queue."""
        # Asked before who is there: whoever has a job has beaten before that.
        working = set(c.scalars(sa.select(jobs.c.executor).where(jobs.c.state == "running")))
        silent = set(c.scalars(sa.select(workers.c.executor).where(~living(self.database))))
        there = set(c.scalars(sa.select(workers.c.executor)))
        lost = sorted(silent | (working - there))
        if lost:
            log.warning("workers_lost", executors=lost)
            requeue(c, lost, deaths=1)
            c.execute(workers.delete().where(workers.c.executor.in_(lost)))


def count_workers(database: Database) -> dict[str, int]:
    """How many workers there are of each model. Raises Busy."""
    query = sa.select(workers.c.model, sa.func.count()).group_by(workers.c.model)
    with database.read() as c:
        return dict(c.execute(query.where(living(database))).all())
