"""The process that photo readers are forked from: it has the decoders in memory and opens nothing.

python -m kinora.serve.template

It is sent connections over its standard input, a Unix socket. For each it forks a reader, which
answers on that connection; the last line there tells what became of the reader. So no reader has
anything in memory, or any connection open, of another one's file.
"""

import json
import os
import select
import signal
import socket
import time
import traceback
from contextlib import suppress
from types import FrameType
from typing import Final, NamedTuple, NoReturn

from PIL import Image

from kinora.serve.reader import work

__all__: list[str] = []

DIGITS: Final = 12
"""Bytes that come with a connection: the seconds that its reader has, in decimal digits."""


class Reading(NamedTuple):
    """A reader at work."""

    connection: socket.socket
    deadline: float


class Template:
    """Forks a reader for each connection, and ends those that take too long."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.readings: dict[int, Reading] = {}
        self.late: set[int] = set()
        self.woken, self.waking = os.pipe()
        for end in (self.woken, self.waking):
            os.set_blocking(end, False)

    def run(self) -> None:
        """Until the other end is closed, as it is when the service is gone."""
        signal.signal(signal.SIGCHLD, _wake)
        signal.set_wakeup_fd(self.waking, warn_on_full_buffer=False)
        going = True
        while going:
            ready, _, _ = select.select([self.control, self.woken], [], [], self._patience())
            if self.woken in ready:
                os.read(self.woken, 4096)
            if self.control in ready:
                going = self._accept()
            self._end_late()
            self._bury()
        for pid in self.readings:
            os.kill(pid, signal.SIGKILL)

    def _patience(self) -> float | None:
        deadlines = [r.deadline for pid, r in self.readings.items() if pid not in self.late]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _accept(self) -> bool:
        """Fork a reader for the next connection; False where there is no next one."""
        message, handles, _, _ = socket.recv_fds(self.control, DIGITS, 1)
        if not message:
            return False
        if not handles:  # too many files are open; the other end finds its connection closed
            return True
        connection = socket.socket(fileno=handles[0])
        try:
            pid = os.fork()
        except OSError as error:
            _tell(connection, {"end": "busy", "reason": str(error.strerror)})
            return True
        if not pid:
            self._read(connection)
        self.readings[pid] = Reading(connection, time.monotonic() + float(message))
        return True

    def _read(self, connection: socket.socket) -> NoReturn:
        """As the reader: let go of all that is the template's or other readers', then work."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for reading in self.readings.values():
                reading.connection.close()
            os.close(self.woken)
            os.close(self.waking)
            self.control.close()
            with suppress(BrokenPipeError, ConnectionResetError):  # nobody waits any more
                work(connection)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _end_late(self) -> None:
        now = time.monotonic()
        for pid, reading in self.readings.items():
            if reading.deadline <= now and pid not in self.late:
                self.late.add(pid)
                os.kill(pid, signal.SIGKILL)

    def _bury(self) -> None:
        """Tell what became of the readers that have ended."""
        while self.readings:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            reading = self.readings.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if pid in self.late or code == -signal.SIGXCPU:
                end = "late"
            elif code == -signal.SIGKILL:  # by the system, which is short of memory
                end = "killed"
            else:
                end = "broken" if code else "done"
            self.late.discard(pid)
            _tell(reading.connection, {"end": end})


def _wake(number: int, frame: FrameType | None) -> None:
    """A handler, without which nothing would come through the pipe."""


def _tell(connection: socket.socket, fate: dict[str, str]) -> None:
    connection.setblocking(False)  # nobody may be reading at the other end
    with suppress(OSError):
        connection.sendall(b"\n" + json.dumps(fate).encode() + b"\n")
    connection.close()


def main() -> None:
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)  # where what a library prints does no harm
    Image.init()  # which imports the decoders
    Template(control).run()


if __name__ == "__main__":
    main()
