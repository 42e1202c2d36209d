"""Asking photo readers: one process for each file, forked from a template process."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, Final, NamedTuple, cast

from kinora.media.picture import MAX_PIXELS
from kinora.serve.errors import Busy, Invalid, TooLarge

__all__ = ["Answered", "Readers"]

COMMAND: Final = (sys.executable, "-m", "kinora.serve.template")
SHARED: Final = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Of the environment. It holds tokens and passwords too."""
OWN: Final = {
    # One thread, as a process of several is not safely forked.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # What decoders ask for is zero, and what they let go of is wiped (glibc; ignored elsewhere).
    "GLIBC_TUNABLES": "glibc.malloc.perturb=255:glibc.malloc.tcache_count=0",
}
GRACE: Final = 15.0
"""Seconds beside a reader's own, for the template to start and to end who takes too long."""
CONTROL: Final = 5.0
"""Seconds until the template has taken a connection."""
MOST: Final = 3 * MAX_PIXELS + 65_536
"""Bytes of an answer."""


class Answered(NamedTuple):
    """What a reader has answered."""

    done: Any
    pixels: memoryview


class Readers:
    """Photo readers, and the template process that they are forked from.

    The template is started when there is something to open, and again when it is gone.
    """

    def __init__(self) -> None:
        self.lock = Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None

    def ask(
        self,
        task: str,
        *values: object,
        data: bytes = b"",
        seconds: float,
        processor_seconds: int,
    ) -> Answered:
        """Have a new reader do a task.

        data: a file for it. seconds: that it has, on the clock and of a processor.
        Raises Invalid when the file can't be opened, TooLarge, or Busy for what isn't its fault.
        """
        about = {"values": values, "bytes": len(data), "seconds": processor_seconds}
        question = json.dumps({"task": task, **about}).encode() + b"\n"
        for _ in range(2):  # a template that is gone took its readers with it
            with self._reader(seconds) as connection:
                answer = _exchange(connection, question, data)
            if answered := _understood(answer):
                return answered
            self.stop()
        raise Busy("photos can't be opened now, as their readers end at once. Try again later")

    def stop(self) -> None:
        """End the template with all its readers."""
        with self.lock:
            self._stop()

    @contextmanager
    def _reader(self, seconds: float) -> Generator[socket.socket]:
        """A connection to a new reader. Raises Busy where there can't be one."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise _unable(error) from error
        with ours:
            with theirs:
                self._hand_over(theirs, seconds)
            ours.settimeout(seconds + GRACE)
            yield ours

    def _hand_over(self, connection: socket.socket, seconds: float) -> None:
        with self.lock:
            for last in (False, True):
                try:
                    control = self._started()
                    socket.send_fds(control, [f"{seconds:012.3f}".encode()], [connection.fileno()])
                    return
                except OSError as error:
                    self._stop()
                    if last:
                        raise _unable(error) from error

    def _started(self) -> socket.socket:
        """The template's end of the line. Raises OSError where it can't be started."""
        if self.process is not None and self.process.poll() is not None:
            self._stop()
        if self.control is None:
            shared = {name: os.environ[name] for name in SHARED if name in os.environ}
            self.control, theirs = socket.socketpair()
            self.control.settimeout(CONTROL)
            with theirs:
                self.process = subprocess.Popen(
                    COMMAND,
                    stdin=theirs.fileno(),
                    env=shared | OWN,
                    start_new_session=True,  # a Ctrl-C is for the service, which ends it
                )
        return self.control

    def _stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):  # the group of the template and its readers
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
        if self.control is not None:
            self.control.close()
            self.control = None


def _exchange(connection: socket.socket, question: bytes, data: bytes) -> bytearray:
    """All that a reader answers, and the template of it; nothing when both are gone."""
    answer = bytearray()
    with suppress(BrokenPipeError, ConnectionResetError):  # why it ended early is told below
        connection.sendall(question)
        connection.sendall(data)
    with suppress(ConnectionResetError, TimeoutError):
        while (part := connection.recv(1 << 20)) and len(answer) < MOST:
            answer += part
    return answer


def _understood(answer: bytearray) -> Answered | None:
    """None where nobody tells what became of the reader. Raises Invalid, TooLarge or Busy."""
    last = answer.rfind(b"\n", 0, -1)
    fate = _object(answer[last + 1 :])
    if "end" not in fate:
        return None
    start = answer.find(b"\n") + 1
    head = _object(answer[:start])
    match {**head, **fate}:
        case {"too_large": why}:
            raise TooLarge(str(why))
        case {"wrong": why}:
            raise Invalid(str(why))
        case {"full": _}:
            raise Busy("there is no room for the file. Try again later")
        case {"done": done, "end": "done", "bytes": size} if start + size == last:
            return Answered(done, memoryview(answer)[start:last])
        case {"end": "late"}:
            raise Invalid("the file takes too long to decode")
        case {"end": "killed"}:
            raise Busy("the system ended the file's reader, as it is short of memory. Try again")
        case {"end": "busy", "reason": why}:
            raise Busy(f"the file can't be opened now: no process could be started ({why})")
        case _:
            raise Invalid("the file can't be decoded")


def _object(line: bytearray) -> Mapping[str, Any]:
    """What a line of JSON says; nothing where it is none."""
    with suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict):
            return cast(dict[str, Any], found)
    return {}


def _unable(error: OSError) -> Busy:
    return Busy(f"the file can't be opened now: no reader could be started ({error.strerror})")
