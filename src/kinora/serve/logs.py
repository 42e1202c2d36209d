"""One line per event: for people on a terminal, as JSON elsewhere."""

import atexit
import logging
import os
import queue
import sys
import threading
from types import ModuleType
from typing import Final

import structlog

__all__ = ["flush_logs", "start_logs"]

MOST_WAITING: Final = 10_000
"""Lines that are kept while they can't be written; later ones are dropped, and counted."""
FLUSH_SECONDS: Final = 1.0
"""For which the end of a process waits for its last lines."""


def start_logs(*libraries: ModuleType) -> None:
    """Write events to stderr from now on. No header and no body of a request is ever logged.

    Logging never raises and never waits: where lines can't be written, they are dropped.
    libraries: those that bring handlers of their own.
    """
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: _lines,
    )
    logging.disable(logging.NOTSET)
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=[_Bridge()], force=True)
    for module in libraries:
        library = logging.getLogger(module.__name__.partition(".")[0])
        library.handlers, library.propagate = [_Bridge()], False
    _lines.start()


def flush_logs() -> None:
    """Wait a moment for the lines that are still to be written."""
    _lines.flush()


class _Lines:
    """Lines on their way to stderr. A thread writes them: whoever reads a pipe may have stopped."""

    def __init__(self) -> None:
        self.waiting = queue.Queue[str](MOST_WAITING)
        self.lost = 0
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, name="logs", daemon=True)
            self.thread.start()
            atexit.register(self.flush)

    def msg(self, line: str) -> None:
        try:
            self.waiting.put_nowait(line)
        except queue.Full:
            self.lost += 1

    # As structlog calls it, by the names of levels.
    debug = info = warning = error = critical = msg

    def flush(self) -> None:
        done = self.waiting.all_tasks_done
        with done:
            done.wait_for(lambda: not self.waiting.unfinished_tasks, FLUSH_SECONDS)

    def _run(self) -> None:
        while True:
            line = self.waiting.get()
            try:
                _write(line)
            except (OSError, ValueError):  # a full disk, a closed pipe, a closed file
                self.lost += 1
            else:
                if self.lost:
                    lost, self.lost = self.lost, 0
                    structlog.get_logger().warning("log_lines_lost", lines=lost)
            finally:
                self.waiting.task_done()


_lines = _Lines()


def _write(line: str) -> None:
    # Not by a file object of Python's: what one can't write stays in its buffer.
    data = f"{line}\n".encode(errors="backslashreplace")
    while data:
        data = data[os.write(sys.stderr.fileno(), data) :]


class _Bridge(logging.Handler):
    """What other libraries log, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        try:
            message = record.getMessage()
        except Exception:  # its arguments don't fit its format
            message = str(record.msg)
        write(message, logger=record.name, exc_info=record.exc_info)
