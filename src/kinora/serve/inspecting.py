"""Clients' files, opened in processes of their own that may take little memory and time.

What a decoder does with a hostile picture, it does there, and to nobody else's.
"""

import io
import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, Final, NamedTuple, TypeVar

import psutil

from kinora.clip import Clip
from kinora.errors import KinoraError
from kinora.media import load_photo
from kinora.media.picture import header, quiet
from kinora.serve.errors import Busy, Invalid, Refused, TooLarge

__all__ = ["Inspector", "Seen"]

MEMORY: Final = 1 << 30
"""Bytes that such a process may take for the file."""
SECONDS: Final = 30.0
"""For one file, and for its turn to come."""
PROCESSES: Final = 2
"""At a time."""

T = TypeVar("T")


class Seen(NamedTuple):
    """A photo that can be read, as it is to be looked at."""

    width: int
    height: int
    format: str
    """"JPEG", "PNG" and so on."""


class Inspector:
    """Looks at photos, and makes other formats of clips."""

    def __init__(self, pixels: int) -> None:
        """pixels: of a photo, at most."""
        self.pixels = pixels
        self.slots = BoundedSemaphore(PROCESSES)
        # Forked from one clean process that has the decoders loaded: some milliseconds each.
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([__name__])

    def photo(self, data: bytes) -> Seen:
        """Raises Invalid when it can't be read, TooLarge, or Busy."""
        return self._run(look, data, self.pixels)

    def convert(self, source: Path, target: Path) -> None:
        """A clip in the format of another suffix. Raises Invalid or Busy."""
        self._run(convert, source, target)

    def _run(self, function: Callable[..., T], *args: object) -> T:
        if not self.slots.acquire(timeout=SECONDS):
            raise Busy("too many files are being looked at. Try again in a moment")
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=confined, args=(sender, function, *args))
        try:
            process.start()
            sender.close()
            if not receiver.poll(SECONDS):
                raise Invalid("the file takes too long to decode")
            answer: Any = receiver.recv()
        except EOFError:
            raise Invalid("the file can't be decoded in this service's memory") from None
        finally:
            process.kill()
            process.join()
            receiver.close()
            self.slots.release()
        if isinstance(answer, Refused):
            raise answer
        if isinstance(answer, KinoraError):
            raise Invalid(str(answer))
        return answer


def confined(sender: Connection, function: Callable[..., object], *args: object) -> None:
    """In the new process: little memory, and no core of it on the disk."""
    most = psutil.Process().memory_info().vms + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        sender.send(function(*args))
    except KinoraError as error:
        sender.send(error)


def look(data: bytes, pixels: int) -> Seen:
    with quiet():
        first = header(io.BytesIO(data), "the photo")
    if first.width * first.height > pixels:
        raise TooLarge(
            f"the photo has {first.width}x{first.height} pixels; at most {pixels:,} are taken. "
            "Scale it down first"
        )
    return Seen(*load_photo(data).size, first.format or "unknown")


def convert(source: Path, target: Path) -> None:
    Clip.open(source).save(target)
