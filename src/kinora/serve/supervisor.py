"""Keeps a worker running beside the API, whatever ends it."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

__all__ = ["Supervisor"]

PATIENCE: Final = 10.0
"""Seconds that a worker has for leaving in good order."""
LONG: Final = 30.0
"""Seconds: between two starts at most, and after which a worker had started well."""
TOLD: Final = (1, 2)
"""Codes of a process that ends by itself, and has said why."""

log = structlog.get_logger()


class Supervisor:
    """Starts a process, and starts it again when it ends.

    The process is given a pipe as its standard input: when that ends, its parent is gone.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        hopeless: Callable[[], object] = lambda: None,
    ) -> None:
        """environment: variables besides this process's own.

        hopeless: called when the first one says that it can't work, as none will then.
        """
        self.command = command
        self.environment = os.environ | environment
        self.hopeless = hopeless
        self.gave_up = False
        self.stopping = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def stop(self) -> None:
        """Have the process leave, in good order where it can."""
        self.stopping.set()
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def _run(self) -> None:
        wait, first = 0.0, True
        while not self.stopping.wait(wait):
            began = time.monotonic()
            try:
                self.process = subprocess.Popen(
                    self.command, stdin=subprocess.PIPE, env=self.environment
                )
                with self.process:  # which closes the pipe in the end
                    code = self.process.wait()
            except OSError as error:  # no memory, or no more processes, for now
                code = str(error)
            if self.stopping.is_set():
                return
            if first and code in TOLD:
                self.gave_up = True
                self.hopeless()
                return
            first = False
            lived = time.monotonic() - began
            wait = 0.0 if lived > LONG else min(LONG, max(1.0, 2 * wait))
            log.warning("worker_ended", code=code, lived=round(lived, 1), next_start_in=wait)
