"""Lines for people and for programs, also while a progress bar is on the screen.

(typer.echo writes past rich, into the middle of the bar.)
"""

import os
import sys

__all__ = ["remark", "result"]


def result(text: str) -> None:
    """A line on stdout. In a pipe a file's name has the very bytes that it has on disk."""
    if sys.stdout.isatty():
        sys.stdout.write(_printable(text) + "\n")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(text + "\n"))
    sys.stdout.flush()


def remark(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(_printable(text) + "\n")
    sys.stderr.flush()


def _printable(text: str) -> str:
    return text.encode(errors="replace").decode()
