"""One line an event: for people on a terminal, as JSON elsewhere."""

import logging
import sys
from types import ModuleType

import structlog

__all__ = ["start_logs"]


def start_logs(*libraries: ModuleType) -> None:
    """Write events to stderr from now on. No header and no body of a request is ever logged.

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
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # whichever it is by then
    )
    logging.disable(logging.NOTSET)
    logging.captureWarnings(True)
    logging.basicConfig(level=logging.WARNING, handlers=[_Bridge()], force=True)
    for module in libraries:
        library = logging.getLogger(module.__name__.partition(".")[0])
        library.handlers, library.propagate = [_Bridge()], False


class _Bridge(logging.Handler):
    """What other libraries log, in the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write(record.getMessage(), logger=record.name, exc_info=record.exc_info)
