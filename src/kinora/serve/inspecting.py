"""Clients' files, opened in processes of their own that may take little memory and time."""

import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from kinora.serve.errors import Busy, Invalid, TooLarge

__all__ = ["Inspector", "Seen"]

SECONDS: Final = 30.0
"""For one file, and for its turn to come."""
READERS: Final = 2
"""Processes."""
LIFE: Final = 1000
"""Files, after which a process is started anew: what decoders lose in memory is got back."""

COMMAND: Final = (sys.executable, "-m", "kinora.serve.reader")


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
        self.readers = queue.SimpleQueue[Reader]()
        for _ in range(READERS):
            self.readers.put(Reader())

    def photo(self, data: bytes) -> Seen:
        """Raises Invalid when it can't be read, TooLarge, or Busy."""
        if not data:
            raise Invalid("the photo is empty. Send a picture file")
        width, height, kind = self._ask({"task": "look", "bytes": len(data)}, data)
        if width * height > self.pixels:
            raise TooLarge(
                f"the photo has {width}x{height} pixels; at most {self.pixels:,} are taken. "
                "Scale it down first"
            )
        return Seen(int(width), int(height), str(kind))

    def convert(self, source: Path, target: Path) -> None:
        """A clip in the format of another suffix. Raises Invalid or Busy."""
        self._ask({"task": "convert", "values": [str(source), str(target)]})

    def close(self) -> None:
        for _ in range(READERS):
            self.readers.get(timeout=SECONDS).stop()

    def _ask(self, question: dict[str, object], data: bytes = b"") -> Any:  # noqa: ANN401 (JSON)
        try:
            reader = self.readers.get(timeout=SECONDS)
        except queue.Empty:
            raise Busy("too many files are being looked at. Try again in a moment") from None
        try:
            return reader.ask(question, data)
        finally:
            self.readers.put(reader)


class Reader:
    """One process that opens files, one after the other; a new one where it didn't survive one."""

    def __init__(self) -> None:
        self.process = self._started()
        self.opened = 0

    def ask(self, question: dict[str, object], data: bytes) -> Any:  # noqa: ANN401 (JSON)
        """Raises Invalid."""
        if self.opened >= LIFE or self.process.poll() is not None:
            self._renew()
        self.opened += 1
        begun = time.monotonic()
        limit = threading.Timer(SECONDS, self.process.kill)
        limit.start()
        try:
            answer = self._exchange(json.dumps(question).encode() + b"\n" + data)
        finally:
            limit.cancel()
        if not answer:
            self._renew()
            late = time.monotonic() - begun >= SECONDS
            why = "takes too long to decode" if late else "can't be decoded"
            raise Invalid(f"the file {why}")
        told = json.loads(answer)
        if "wrong" in told:
            raise Invalid(str(told["wrong"]))
        return told["done"]

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()

    def _exchange(self, question: bytes) -> bytes:
        """A line of the process; nothing when it is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(question)
            self.process.stdin.flush()
            return self.process.stdout.readline()
        except BrokenPipeError:
            return b""

    def _renew(self) -> None:
        self.stop()
        self.process = self._started()
        self.opened = 0

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
