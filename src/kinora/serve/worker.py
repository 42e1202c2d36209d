"""A worker process: takes jobs from the durable queue, one at a time."""

import math
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Final

import structlog
from dbos import DBOS, DBOSConfig
from sqlalchemy.exc import DBAPIError

from kinora.serve.assignments import Assignments
from kinora.serve.database import Database, is_away, open_database
from kinora.serve.errors import Busy
from kinora.serve.files import Files
from kinora.serve.heart import Heart
from kinora.serve.logs import flush_logs
from kinora.serve.patience import patiently
from kinora.serve.queue import APPLICATION, VERSION, WORKFLOW, queue_of
from kinora.serve.settings import Settings
from kinora.serve.work import Maker, Work

__all__ = ["FAREWELL", "VANISHED", "run_worker"]

PARTS: Final = 8
"""Of sampling, each of which lasts once it is done."""
POLL: Final = 0.2
"""Seconds between two looks at the queue."""
PATIENCE: Final = 30.0
"""Seconds that a statement waits for the database's lock."""
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
    database = open_database(settings.database_url, patience=PATIENCE)
    work = Work(load(), Assignments(database, executor), Files(settings.storage_url))

    _configure(database, settings, executor)
    heart = Heart(database, executor, settings.model_name, requeue, holders)
    _launch(work, settings)
    heart.start()
    log.info("worker_ready", model=settings.model_name, executor=executor)

    stop.wait()
    work.leaving.set()
    _bound_farewell(executor)
    patiently(heart.leave)
    _put_back(work)  # last of all, as DBOS goes on taking jobs
    log.info("worker_left", executor=executor)
    flush_logs()
    os._exit(0)  # a thread of its is in the midst of a job that isn't its own any more


def _bound_farewell(executor: str) -> None:
    """Who can't leave in good order, as the database is away, is taken for dead before long."""

    def vanish() -> None:
        log.warning("worker_vanished", executor=executor)
        flush_logs()
        os._exit(VANISHED)

    limit = threading.Timer(FAREWELL, vanish)
    limit.daemon = True
    limit.start()


def _configure(database: Database, settings: Settings, executor: str) -> None:
    config: DBOSConfig = {
        "name": APPLICATION,
        "system_database_url": settings.database_url,
        "system_database_engine": database.engine,
        "executor_id": executor,
        "application_version": VERSION,
        "use_listen_notify": False,
        "log_level": "WARNING",
    }
    DBOS(config=config)


def _launch(work: Work, settings: Settings) -> None:
    """Have DBOS take jobs of the model."""
    alone = threading.Lock()

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
    def clip(id: str) -> None:  # pyright: ignore[reportUnusedFunction]
        # DBOS counts a job as running once its thread runs: where the machine is busy, it takes the
        # next one before that, which waits here. And a job that raises is over for DBOS: nobody
        # would try it again.
        with alone:
            try:
                _make(work, id)
            except Exception as error:
                if is_away(error):  # what was made is still there
                    # In a thread that DBOS doesn't take for the job's own.
                    returning = threading.Thread(target=_put_back, args=(work,))
                    returning.start()
                    returning.join()
                else:
                    work.give_up(id, error)
                raise

    name = queue_of(settings.model_name)
    DBOS.listen_queues([name])
    DBOS.launch()
    DBOS.register_queue(
        name, worker_concurrency=1, polling_interval_sec=POLL, on_conflict="always_update"
    )


def _make(work: Work, id: str) -> None:
    if not work.begin(id):  # no step: done anew by each worker that has the job
        return
    steps = DBOS.run_step({"name": "encode"}, work.encode, id)
    for step in sorted({math.ceil(steps * part / PARTS) for part in range(1, PARTS + 1)}):
        if not step or not DBOS.run_step({"name": f"sample {step}"}, work.sample, id, step):
            return
    DBOS.run_step({"name": "decode"}, work.decode, id)


def _put_back(work: Work) -> None:
    """Give this worker's job back to the queue, for whichever worker is the next one."""

    def back() -> None:
        work.jobs.give_back()
        requeue([work.jobs.executor])

    patiently(back, errors=(Busy, DBAPIError, RuntimeError))


def requeue(executors: Sequence[str]) -> None:
    """Put workers' jobs back into the queue; those that aren't theirs any more stay as they are.

    Raises RuntimeError when that was not done for all of them.
    """
    # What DBOS offers for this has no public name, and only logs what goes wrong.
    DBOS._recover_pending_workflows(list(executors))  # pyright: ignore[reportPrivateUsage]
    left = DBOS.list_workflows(
        status="PENDING",
        executor_id=list(executors),
        app_version=VERSION,
        load_input=False,
        load_output=False,
    )
    if left:
        raise RuntimeError(f"{len(left)} jobs could not be put back into the queue")


def holders() -> set[str]:
    """Workers that jobs were given to which have not ended."""
    pending = DBOS.list_workflows(
        status="PENDING", app_version=VERSION, load_input=False, load_output=False
    )
    return {one.executor_id for one in pending if one.executor_id is not None}


def _watch_parent(stop: threading.Event) -> None:
    # Not by a buffer of Python's, which an end of the process meanwhile would trip over.
    while os.read(sys.stdin.fileno(), 1):
        pass
    stop.set()
