"""Where photos and clips lie: a folder, or a bucket that several machines share."""

import errno
import os
import secrets
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import fsspec  # pyright: ignore[reportMissingTypeStubs]

from kinora.errors import OutputError, RequestError
from kinora.serve.errors import Busy, Missing

__all__ = ["Files"]

FULL = (errno.ENOSPC, errno.EDQUOT)
BLOCK = 1 << 20
"""Bytes read at a time."""


class Files:
    """Files by names such as "jobs/1f/1f…/clip.mp4", each whole or not there at all.

    Names are made by the service, never by clients.
    """

    def __init__(self, url: str) -> None:
        """url: a folder, or "s3://bucket/prefix" and whatever else fsspec knows.

        Raises RequestError when there is no such place.
        """
        try:
            self.system, self.root = cast(Any, fsspec).core.url_to_fs(url)
            self.system.makedirs(self.root, exist_ok=True)
        except (ImportError, ValueError, OSError) as error:
            raise RequestError(f"storage {url}: {error}") from error
        self.is_local = "file" in self.system.protocol

    def write(self, name: str, data: bytes) -> None:
        """Raises Busy when there is no room."""
        with self.new(name) as path:
            path.write_bytes(data)

    @contextmanager
    def new(self, name: str) -> Generator[Path]:
        """A temporary file of this suffix, which gets the name when all was written to it.

        Raises Busy when there is no room.
        """
        place = f"{self.root}/{name}"
        folder = Path(place).parent if self.is_local else Path(tempfile.gettempdir())
        with _room():
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f".{secrets.token_hex(8)}{Path(name).suffix}"
            try:
                yield draft
                _to_disk(draft)
                if self.is_local:
                    draft.replace(place)
                    _to_disk(folder)
                else:
                    self.system.put_file(str(draft), place)
            finally:
                draft.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        """Raises Missing."""
        with _there(name):
            return self.system.cat_file(f"{self.root}/{name}")

    def size(self, name: str) -> int:
        """Bytes. Raises Missing."""
        with _there(name):
            return int(self.system.size(f"{self.root}/{name}"))

    def part(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes from start up to end, in blocks. Raises Missing."""
        with _there(name), self.system.open(f"{self.root}/{name}", "rb") as file:
            file.seek(start)
            while start < end and (block := file.read(min(BLOCK, end - start))):
                start += len(block)
                yield block

    def path(self, name: str) -> Path:
        """Of a file in a local folder."""
        return Path(self.root) / name

    @contextmanager
    def local(self, name: str) -> Generator[Path]:
        """A file as one of this machine's. Raises Missing."""
        if self.is_local:
            yield self.path(name)
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / Path(name).name
            copy.write_bytes(self.read(name))
            yield copy

    def exists(self, name: str) -> bool:
        return bool(self.system.isfile(f"{self.root}/{name}"))

    def delete(self, folder: str) -> None:
        """A folder and all that is in it, where it is there."""
        place = f"{self.root}/{folder}"
        with suppress(FileNotFoundError):  # another process may be at it too
            if self.system.exists(place):
                self.system.rm(place, recursive=True)

    def tidy(self, folder: str) -> None:
        """Let go of temporary files in a folder, whose writer has died."""
        if self.is_local:
            for draft in self.path(folder).glob(".*"):
                draft.unlink(missing_ok=True)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in one."""
        place = f"{self.root}/{folder}"
        if not self.system.exists(place):
            return []
        found = self.system.ls(place, detail=True, refresh=True)
        names = (Path(entry["name"]).name for entry in found if entry["type"] == "directory")
        return [f"{folder}/{name}" for name in names]

    def age(self, folder: str) -> float:
        """Seconds since a file was last written into a folder; 0 where that isn't known."""
        found = self.system.find(f"{self.root}/{folder}", detail=True)
        times = [_time(entry) for entry in found.values()]
        return time.time() - max(times) if times and all(times) else 0.0

    def bytes_of(self, folder: str) -> int:
        place = f"{self.root}/{folder}"
        return int(self.system.du(place)) if self.system.exists(place) else 0


def _to_disk(path: Path) -> None:
    """A power cut from here on takes nothing of it away."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _room() -> Generator[None]:
    try:
        yield
    except (OSError, OutputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        reason = "is full" if cause.errno in FULL else "can't be written to"
        raise Busy(f"the storage {reason}. Try again later") from error


@contextmanager
def _there(name: str) -> Generator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Missing(f"{Path(name).name}: not there. It may have been deleted") from None


def _time(entry: Mapping[str, Any]) -> float:
    """Seconds since 1970, under whichever name a file system tells them; 0 where it doesn't."""
    for name in ("mtime", "LastModified", "last_modified", "updated", "created"):
        match entry.get(name):
            case datetime() as told:
                return told.timestamp()
            case int() | float() as told:
                return float(told)
            case _:
                pass
    return 0.0
