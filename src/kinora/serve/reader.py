"""What a photo reader does: open one file of a client, answer, and end.

What a decoder does with a hostile file, it does here: in a process that has seen no other client's
file, may take little memory and time, and has no secrets in its environment.

A reader is asked by a line of JSON, with the file's bytes after it, and answers with a line of
JSON, with pixels after it. Who asks trusts nothing of it but that.
"""

import io
import json
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
from PIL import Image

from kinora.clip import Clip
from kinora.errors import KinoraError, TooLargeError
from kinora.media import load_photo
from kinora.media.picture import header, quiet
from kinora.serve.errors import is_full
from kinora.serve.formats import OPENED

__all__ = ["work"]

MEMORY: Final = 5 << 28
"""Bytes that a file may take: what a photo of 64 megapixels needs in any mode."""
FILE: Final = 1 << 30
"""Bytes of a file that it writes."""
BAND: Final = 1 << 22
"""Bytes of pixels that are sent at a time."""


class Answer(NamedTuple):
    """What a task comes to."""

    done: object
    photo: Image.Image | None = None
    """Whose pixels follow."""


def look(data: bytes) -> Answer:
    """Width, height and format of a photo."""
    photo = load_photo(data, formats=OPENED)
    with quiet():
        kind = header(io.BytesIO(data), "the photo", OPENED).format
    return Answer([*photo.size, kind])


def pixels(data: bytes) -> Answer:
    """Width and height of a photo, and its pixels."""
    photo = load_photo(data, formats=OPENED)
    return Answer([*photo.size], photo)


def convert(source: str, target: str) -> Answer:
    """A clip in the format of another suffix."""
    Clip.open(source).save(Path(target))
    return Answer(None)


def waste() -> Answer:
    """Take more memory than there is, for tests."""
    return Answer(len(bytearray(2 * MEMORY)))


def stall() -> Answer:
    """Never come to an end, for tests."""
    while True:
        pass


def crash() -> Answer:
    """End as a process does whose decoder has a fault, for tests."""
    os.abort()


def remember(data: bytes) -> Answer:
    """Which process this is, what it has in memory of others and keep a file there, for tests."""
    found = len(_KEPT)
    _KEPT.append(data)
    return Answer([os.getpid(), found, len([*Path("/dev/fd").iterdir()])])


_KEPT: list[bytes] = []

TASKS: Final[dict[str, Callable[..., Answer]]] = {
    "look": look,
    "pixels": pixels,
    "convert": convert,
    "waste": waste,
    "stall": stall,
    "crash": crash,
    "remember": remember,
}


def work(connection: socket.socket) -> None:
    """Do what the line on a connection asks for, once."""
    with connection.makefile("rb") as asked:
        question = json.loads(asked.readline())
        _confine(question["seconds"])
        values = question["values"]
        if size := question["bytes"]:
            values = [*values, asked.read(size)]
        for part in _answer(question["task"], values):
            connection.sendall(part)


def _confine(seconds: int) -> None:
    """Little memory and time of a processor, no large files, and no core of it on the disk."""
    most = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(task: str, values: list[Any]) -> Iterator[bytes]:
    try:
        done, photo = TASKS[task](*values)
    except TooLargeError as error:
        yield _line({"too_large": str(error)})
    except (KinoraError, OSError) as error:
        if not is_full(error) and isinstance(error, OSError):
            raise
        yield _line({"full" if is_full(error) else "wrong": str(error)})
    except MemoryError:
        yield _line({"wrong": "the file can't be decoded in this service's memory"})
    else:
        size = 0 if photo is None else 3 * photo.width * photo.height
        yield _line({"done": done, "bytes": size})
        if photo is not None:
            yield from _bands(photo)


def _bands(photo: Image.Image) -> Iterator[bytes]:
    """The pixels of a photo, some rows at a time: it has no room for all of them twice."""
    rows = max(1, BAND // (3 * photo.width))
    for top in range(0, photo.height, rows):
        yield photo.crop((0, top, photo.width, min(top + rows, photo.height))).tobytes()


def _line(answer: dict[str, object]) -> bytes:
    return json.dumps(answer).encode() + b"\n"
