"""A worker process: takes jobs from the durable queue, one at a time."""

import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from types import FrameType
from typing import Final

import structlog

from kinora.serve.database import open_database
from kinora.serve.errors import Busy
from kinora.serve.files import Files, make_private
from kinora.serve.heartbeat import Heartbeat
from kinora.serve.leases import Leases
from kinora.serve.logs import flush_logs
from kinora.serve.retry import patiently
from kinora.serve.settings import OWN_NAMES, Settings
from kinora.serve.work import Maker, Work

__all__ = ["FAREWELL", "VANISHED", "run_worker"]

POLL: Final = 0.2
"""Seconds between two looks at the queue."""
AWAY: Final = 1.0
"""Seconds between two looks while the database is away."""
LOCK_SECONDS: Final = 30.0
"""For which a statement waits for the database's lock."""
VANISHED: Final = 3
"""Exit code of a worker that could not leave in good order."""
FAREWELL: Final = 8.0
"""Seconds for leaving in good order: less than whoever told it to leave waits."""

log = structlog.get_logger()


def run_worker(settings: Settings, load: Callable[[], Maker], *, attached: bool = False) -> None:
    """Work until told to leave; what is being made then is given back to the queue.

    load: of what makes the clips; called before any job is taken.
    attached: leave when standard input ends too, as it does when the parent is gone.
    """
    executor = uuid.uuid4().hex  # of this process: one that is started anew is another worker
    stop = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    if attached:
        threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    make_private(settings.data, OWN_NAMES)
    database = open_database(settings.database_url, patience=LOCK_SECONDS)
    maker, model = load(), settings.model_name
    leases = Leases(database, executor, model, maker.binding)
    files = Files(settings.storage_url, private=settings.storage is None)
    work = Work(maker, leases, files)
    heartbeat = Heartbeat(database, executor, model, maker.binding)
    heartbeat.start()
    threading.Thread(target=_work, args=(work, stop), name="work", daemon=True).start()
    log.info("worker_ready", model=model, binding=maker.binding, executor=executor)

    stop.wait()
    _bound_farewell(executor)
    work.leave()
    patiently(heartbeat.leave)
    log.info("worker_left", executor=executor)
    flush_logs()
    os._exit(0)  # a thread of its is in the midst of a job that isn't its own any more


def _work(work: Work, stop: threading.Event) -> None:
    """One job after the other."""
    while not stop.is_set():
        try:
            if not work.once():
                stop.wait(POLL)
        except Exception as error:  # whatever it is, the next look may work
            log.warning("no_job_taken", reason=str(error), exc_info=not isinstance(error, Busy))
            stop.wait(AWAY)


def _bound_farewell(executor: str) -> None:
    """Who can't leave in good order, as the database is away, is taken for dead before long."""

    def vanish() -> None:
        log.warning("worker_vanished", executor=executor)
        flush_logs()
        os._exit(VANISHED)

    limit = threading.Timer(FAREWELL, vanish)
    limit.daemon = True
    limit.start()


def _watch_parent(stop: threading.Event) -> None:
    # Not by a buffer of Python's, which an end of the process meanwhile would trip over.
    while os.read(sys.stdin.fileno(), 1):
        pass
    stop.set()
