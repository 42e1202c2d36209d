"""A real PostgreSQL server, from Debian's package, for as long as it is needed."""

import os
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa

__all__ = ["Postgres", "installed", "postgres"]

PACKAGE = Path("/usr/lib/postgresql")
USER = "postgres"
"""The package's own, whom a server runs as where we are root: PostgreSQL refuses root."""


def installed() -> bool:
    return any(PACKAGE.glob("*/bin/postgres"))


class Postgres:
    """One server: it listens on a socket in its own folder, and nowhere else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.names = (f"kinora{number}" for number in count(1))
        if os.geteuid() == 0:
            subprocess.run(["chown", f"{USER}:", str(folder)], check=True)
        # Whoever gets to the folder may come in: it is nobody else's.
        self._run("initdb", "-D", str(self.data), "-U", "kinora", "-A", "trust", "-E", "UTF8")

    def start(self) -> None:
        settings = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}'"
        log = str(self.folder / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self.data), "-l", log, "-o", settings)

    def stop(self) -> None:
        """At once: whoever is connected is sent away."""
        self._run("pg_ctl", "stop", "-w", "-m", "fast", "-D", str(self.data))

    def kill(self) -> None:
        """Nothing is written any more, as if the power had failed."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        master = psutil.Process(pid)
        family = [master, *master.children(recursive=True)]
        for process in family:
            process.kill()
        psutil.wait_procs(family)

    def create(self, tables: Path | None = None) -> str:
        """The URL of a new, empty database.

        tables: a new folder that its tables are to lie in, rather than with the server's data.
        """
        name = next(self.names)
        if tables is None:
            self._ask(f"CREATE DATABASE {name}")
        else:
            tables.mkdir()
            if os.geteuid() == 0:
                subprocess.run(["chown", f"{USER}:", str(tables)], check=True)
            self._ask(f"CREATE TABLESPACE of_{name} LOCATION '{tables}'")
            self._ask(f"CREATE DATABASE {name} TABLESPACE of_{name}")
        return f"postgresql://kinora@/{name}?host={self.folder}"

    def drop(self, url: str) -> None:
        """Let go of a database whose tables lie elsewhere."""
        name = sa.make_url(url).database
        self._ask(f"DROP DATABASE {name} WITH (FORCE)")
        self._ask(f"DROP TABLESPACE of_{name}")

    def _ask(self, statement: str) -> None:
        self._run("psql", "-h", str(self.folder), "-U", "kinora", "-d", "postgres", "-c", statement)

    def _run(self, program: str, *arguments: str) -> None:
        path = next(PACKAGE.glob(f"*/bin/{program}"))
        as_whom: dict[str, Any] = {}
        if os.geteuid() == 0:
            as_whom = {"user": USER, "group": USER, "extra_groups": []}
        subprocess.run(
            [path, *arguments],
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **as_whom,
        )


@contextmanager
def postgres() -> Generator[Postgres]:
    """A server that is there until the context is left."""
    with tempfile.TemporaryDirectory(prefix="kinora-postgres-", ignore_cleanup_errors=True) as name:
        server = Postgres(Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop()
