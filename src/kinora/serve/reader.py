"""A process that opens clients' files: what a decoder does with a hostile one, it does here.

python -m kinora.serve.reader

It answers JSON lines on standard input by JSON lines on standard output. A photo's bytes follow
the line that tells their number. The parent trusts nothing of it but those lines.
"""

import io
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

import psutil

from kinora.clip import Clip
from kinora.errors import KinoraError, TooLargeError
from kinora.media import load_photo
from kinora.media.picture import header, quiet

__all__: list[str] = []

MEMORY: Final = 1 << 30
"""Bytes that files may take."""
FILE: Final = 1 << 30
"""Bytes of a file that it writes."""


def look(data: bytes) -> list[object]:
    """Width, height and format of a photo."""
    photo = load_photo(data)
    with quiet():
        kind = header(io.BytesIO(data), "the photo").format
    return [*photo.size, kind]


def pixels(path: str, data: bytes) -> list[int]:
    """Width and height of a photo, whose pixels go into a file."""
    photo = load_photo(data)
    Path(path).write_bytes(photo.tobytes())
    return [*photo.size]


def convert(source: str, target: str) -> None:
    """A clip in the format of another suffix."""
    Clip.open(source).save(Path(target))


def waste() -> None:
    """Take more memory than there is, for tests."""
    bytearray(2 * MEMORY)


def stall() -> None:
    """Never come to an end, for tests."""
    while True:
        pass


TASKS: Final[dict[str, Callable[..., object]]] = {
    "look": look,
    "pixels": pixels,
    "convert": convert,
    "waste": waste,
    "stall": stall,
}


def confine() -> None:
    """Little memory from now on, no large files, and no core of it on the disk."""
    most = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer(question: dict[str, Any], asked: BinaryIO) -> dict[str, object]:
    values = question.get("values", [])
    if size := question.get("bytes", 0):
        values = [*values, asked.read(size)]
    try:
        return {"done": TASKS[question["task"]](*values)}
    except TooLargeError as error:
        return {"too_large": str(error)}
    except KinoraError as error:
        return {"wrong": str(error)}
    except MemoryError:
        return {"wrong": "the file can't be decoded in this service's memory"}


def main() -> None:
    # What a library prints goes elsewhere.
    told = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    confine()
    while line := sys.stdin.buffer.readline():
        told.write(json.dumps(answer(json.loads(line), sys.stdin.buffer)).encode() + b"\n")
        told.flush()


if __name__ == "__main__":
    main()
