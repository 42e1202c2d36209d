"""Whether the clock can be relied on for deciding what has been kept long enough."""

from time import monotonic
from typing import Final

import sqlalchemy as sa
import structlog

from kinora.serve.database import Database, times

__all__ = ["Clock"]

TOLERANCE: Final = 60.0
"""Seconds by which the database's clock and this process's own may drift apart."""
DAY: Final = 86400.0
HOLD: Final = 3600.0
"""Seconds without a jump, after which the clock is believed again."""
NAME: Final = "sweep"

log = structlog.get_logger()


class Clock:
    """The database's clock, watched for jumps: one of 40 days would make everything look old."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.last: tuple[float, float] | None = None
        """The clock, and the seconds of this process, when it was last looked at."""
        self.held_until = 0.0

    def steady(self) -> bool:
        """Look at the clock; whether things may expire by it. Raises Busy."""
        now, process = self._now(), monotonic()
        if self.last is None:
            before = self._stored()
            jump = 0.0 if before is None else now - before
            jumped = not -TOLERANCE < jump < DAY
        else:
            jump = (now - self.last[0]) - (process - self.last[1])
            jumped = abs(jump) > TOLERANCE
        self.last = (now, process)
        if jumped:
            self.held_until = process + HOLD
            log.warning("clock_jumped", seconds=round(jump), nothing_expires_for=HOLD)
        if process < self.held_until:
            return False  # not stored either: who starts meanwhile sees the jump too
        self._store(now)
        return True

    def _now(self) -> float:
        with self.database.read() as c:
            return c.scalar(sa.select(self.database.now)) or 0.0

    def _stored(self) -> float | None:
        with self.database.read() as c:
            return c.scalar(sa.select(times.c.at).where(times.c.name == NAME))

    def _store(self, now: float) -> None:
        with self.database.begin() as c:
            self.database.lock(c, "kinora_times")
            if not c.execute(times.update().where(times.c.name == NAME).values(at=now)).rowcount:
                c.execute(times.insert().values(name=NAME, at=now))
