"""Workers tell that they live, and notice which of them don't any more.

DBOS leaves this to others. Each worker beats once a second, by the database's clock; whoever sees
that another one has been silent puts its jobs back into the queue.
"""

import threading
from collections.abc import Callable, Sequence, Set

import sqlalchemy as sa
import structlog

from kinora.serve.database import Database, workers

__all__ = ["SILENCE", "Heart", "living"]

BEAT = 1.0
"""Seconds."""
SILENCE = 5.0
"""Seconds without a beat, after which a worker counts as dead."""

log = structlog.get_logger()


class Heart:
    """One worker's beats. The first one is done when this is made: before any job is taken."""

    def __init__(
        self,
        database: Database,
        executor: str,
        model: str,
        bury: Callable[[Sequence[str]], object],
        holders: Callable[[], Set[str]],
    ) -> None:
        """bury: puts the jobs of dead workers back into the queue; tried again when it raises.

        holders: workers that jobs were given to. One that never beats any more, as it took its
        last job while it left, is as dead as one that fell silent.
        """
        self.database = database
        self.mine = {"executor": executor, "model": model}
        self.bury = bury
        self.holders = holders
        self.last = 0.0
        self.regular = 0
        """Beats in a row that were on time. One who was away can't tell who else was."""
        self.beat()

    def start(self) -> None:
        threading.Thread(target=self._run, name="heart", daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(BEAT):
            try:
                self.beat()
            except Exception as error:  # whatever it is, the next beat may work
                self.regular = 0
                log.warning("beat_failed", reason=str(error))

    def beat(self) -> None:
        # Asked before who is there: whoever has a job has beaten before that.
        holders = self.holders() if self._may_tell else frozenset[str]()
        with self.database.begin() as c:
            mine = workers.update().where(workers.c.executor == self.mine["executor"])
            if not c.execute(mine.values(beat=self.database.now)).rowcount:
                c.execute(workers.insert().values(self.mine | {"beat": self.database.now}))
            now: float = c.scalar(sa.select(self.database.now)) or 0.0
            self.regular = self.regular + 1 if now - self.last < 2 * BEAT else 0
            self.last = now
            beats = dict(c.execute(sa.select(workers.c.executor, workers.c.beat)).all())
        silent = {executor for executor, beat in beats.items() if beat < now - SILENCE}
        dead = sorted(silent | (holders - beats.keys())) if self._may_tell else []
        if dead:
            log.warning("workers_lost", executors=dead)
            self.bury(dead)
            with self.database.begin() as c:
                c.execute(workers.delete().where(workers.c.executor.in_(dead)))

    @property
    def _may_tell(self) -> bool:
        return self.regular > SILENCE / BEAT

    def leave(self) -> None:
        with self.database.begin() as c:
            c.execute(workers.delete().where(workers.c.executor == self.mine["executor"]))


def living(database: Database) -> dict[str, int]:
    """How many workers there are of each model. Raises Busy."""
    query = sa.select(workers.c.model, sa.func.count()).group_by(workers.c.model)
    with database.read() as c:
        alive = query.where(workers.c.beat >= database.now - SILENCE)
        return dict(c.execute(alive).all())
