"""Clients' files, opened in processes of their own that may take little memory and time."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import UInt8

from kinora.serve.errors import Busy, Invalid, TooLarge

__all__ = ["Inspector", "Seen"]

SECONDS: Final = 30.0
"""For one photo, and for its turn to come."""
FILM_SECONDS: Final = 300.0
"""For a clip in another format."""
WAITING: Final = 8
"""Who may wait for a reader; more would take the threads that others' requests need."""
LIFE: Final = 1000
"""Files, after which a process is started anew: what decoders lose in memory is got back."""

COMMAND: Final = (sys.executable, "-m", "kinora.serve.reader")
SHARED: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Of the environment. It holds tokens and passwords too."""


class Seen(NamedTuple):
    """A photo that can be read, as it is to be looked at."""

    width: int
    height: int
    format: str
    """"JPEG", "PNG" and so on."""


class Inspector:
    """Looks at photos, and makes other formats of clips."""

    def __init__(self, pixels: int, *, readers: int = 2) -> None:
        """pixels: of a photo, at most. readers: processes; one more makes clips' other formats."""
        self.pixels_at_most = pixels
        self.photos = Readers(readers)
        self.films = Readers(1)

    def photo(self, data: bytes) -> Seen:
        """Raises Invalid when it can't be read, TooLarge, or Busy."""
        if not data:
            raise Invalid("the photo is empty. Send a picture file")
        width, height, kind = self.photos.ask({"task": "look"}, data)
        if width * height > self.pixels_at_most:
            raise TooLarge(
                f"the photo has {width}x{height} pixels; at most {self.pixels_at_most:,} are "
                "taken. Scale it down first"
            )
        return Seen(int(width), int(height), str(kind))

    def pixels(self, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
        """What a photo shows. Raises Invalid or Busy."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pixels"
            width, height = self.photos.ask({"task": "pixels", "values": [str(path)]}, data)
            return np.fromfile(path, np.uint8).reshape(height, width, 3)

    def convert(self, source: Path, target: Path) -> None:
        """A clip in the format of another suffix. Raises Invalid or Busy."""
        values = [str(source), str(target)]
        self.films.ask({"task": "convert", "values": values}, seconds=FILM_SECONDS)

    def close(self) -> None:
        self.photos.close()
        self.films.close()


class Readers:
    """Some processes that open files, and those who wait for them."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.free = queue.SimpleQueue[Reader]()
        self.places = threading.BoundedSemaphore(count + WAITING)
        for _ in range(count):
            self.free.put(Reader())

    def ask(
        self, question: dict[str, object], data: bytes = b"", seconds: float | None = None
    ) -> Any:  # noqa: ANN401 (JSON)
        """Raises Invalid, TooLarge or Busy."""
        limit = SECONDS if seconds is None else seconds
        if not self.places.acquire(blocking=False):
            raise Busy("too many files are being looked at. Try again in a moment")
        try:
            reader = self.free.get(timeout=limit)
            try:
                return reader.ask({**question, "bytes": len(data)}, data, limit)
            finally:
                self.free.put(reader)
        except queue.Empty:
            raise Busy("too many files are being looked at. Try again in a moment") from None
        finally:
            self.places.release()

    def close(self) -> None:
        for _ in range(self.count):
            self.free.get(timeout=FILM_SECONDS).stop()


class Reader:
    """One process that opens files, one after the other; a new one where it didn't survive one."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.opened = 0

    def ask(self, question: dict[str, object], data: bytes, seconds: float) -> Any:  # noqa: ANN401
        """Raises Invalid or TooLarge."""
        process = self._alive()
        self.opened += 1
        begun = time.monotonic()
        limit = threading.Timer(seconds, process.kill)
        limit.start()
        try:
            answer = _exchange(process, json.dumps(question).encode() + b"\n" + data)
        finally:
            limit.cancel()
        if not answer:
            self.stop()
            late = time.monotonic() - begun >= seconds
            why = "takes too long to decode" if late else "can't be decoded"
            raise Invalid(f"the file {why}")
        told = json.loads(answer)
        if "too_large" in told:
            raise TooLarge(str(told["too_large"]))
        if "wrong" in told:
            raise Invalid(str(told["wrong"]))
        return told["done"]

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _alive(self) -> subprocess.Popen[bytes]:
        """The process, which is started when there is something to open."""
        if self.process is not None and (self.opened >= LIFE or self.process.poll() is not None):
            self.stop()
        if self.process is None:
            self.opened = 0
            self.process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={name: os.environ[name] for name in SHARED if name in os.environ},
                start_new_session=True,  # a Ctrl-C is for the service, which ends it
            )
        return self.process


def _exchange(process: subprocess.Popen[bytes], question: bytes) -> bytes:
    """A line of a process; nothing when it is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(question)
        process.stdin.flush()
        return process.stdout.readline()
    except BrokenPipeError:
        return b""
