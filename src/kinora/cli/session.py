"""What surrounds every command: failures become one message, signals stop it, warnings one line."""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TextIO

from kinora.cli.say import remark
from kinora.errors import (
    DeviceError,
    KinoraError,
    KinoraWarning,
    RequestError,
    ran_out_of_memory,
)

__all__ = ["out_of_memory", "session"]

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


@contextmanager
def session() -> Generator[None, None, None]:
    """Run a command so that it ends with one readable message and the right exit code.

    Wrong usage exits with 2, another failure with 1, Ctrl-C and being told to end with 130.
    With KINORA_DEBUG set to 1, tracebacks and other libraries' warnings are shown.
    """
    debug = os.environ.get("KINORA_DEBUG", "") not in ("", "0")
    try:
        with ExitStack() as stack:
            stack.enter_context(_stopped_by_signals())
            if not debug:
                stack.enter_context(_own_warnings_only())
            yield
    except KinoraError as error:
        if debug:
            raise
        _fail(str(error), WRONG_USAGE if isinstance(error, RequestError) else FAILED)
    except (KeyboardInterrupt, SystemExit) as error:
        # Typer makes an exit of Ctrl-C.
        if isinstance(error, SystemExit) and error.code != INTERRUPTED:
            raise
        remark("Interrupted")
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        _fail(_unexpected(error), FAILED)


@contextmanager
def out_of_memory(advice: str) -> Generator[None, None, None]:
    """Say what to lower when memory runs out.

    Raises DeviceError in place of whatever torch or Python raise then.
    """
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        raise DeviceError(f"not enough memory: {advice}") from error


def _unexpected(error: Exception) -> str:
    if ran_out_of_memory(error):
        return "not enough memory"
    if isinstance(error, OSError):
        return str(error)
    what = str(error).strip().split("\n", 1)[0] or "no more is known"
    return (
        f"this is a bug in Kinora, not in what you did ({type(error).__name__}: {what}). "
        "Run the same command with KINORA_DEBUG=1 in front to see where, and please report it"
    )


def _fail(message: str, code: int) -> None:
    remark(f"Error: {message}")
    sys.exit(code)


@contextmanager
def _stopped_by_signals() -> Generator[None, None, None]:
    """Being told to end, or a closed terminal, is like Ctrl-C: what was begun is cleaned up."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    # What the parent chose to have ignored, as `nohup` does, stays ignored.
    numbers = [n for n in numbers if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _own_warnings_only() -> Generator[None, None, None]:
    """Our warnings as one line each, told once; those of other libraries concern nobody here."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if str(message) not in told:
            told.add(str(message))
            remark(f"Warning: {message}")

    told: set[str] = set()
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", KinoraWarning)
            warnings.showwarning = show
            yield
    finally:
        logging.disable(level)
