"""Where photos and clips lie: a folder, or a bucket that several machines share."""

import errno
import secrets
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import fsspec  # pyright: ignore[reportMissingTypeStubs]

from kinora.errors import RequestError
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
                if self.is_local:
                    draft.replace(place)
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
        if self.system.exists(place):
            self.system.rm(place, recursive=True)

    def folders(self, folder: str) -> list[tuple[str, float]]:
        """Names of the folders in one, and seconds since 1970 when each was last changed."""
        place = f"{self.root}/{folder}"
        if not self.system.exists(place):
            return []
        found = self.system.ls(place, detail=True)
        return [
            (f"{folder}/{Path(entry['name']).name}", float(entry.get("mtime") or 0))
            for entry in found
            if entry["type"] == "directory"
        ]

    def bytes_of(self, folder: str) -> int:
        place = f"{self.root}/{folder}"
        return int(self.system.du(place)) if self.system.exists(place) else 0


@contextmanager
def _room() -> Generator[None]:
    try:
        yield
    except OSError as error:
        reason = "is full" if error.errno in FULL else "can't be written to"
        raise Busy(f"the storage {reason}. Try again later") from error


@contextmanager
def _there(name: str) -> Generator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Missing(f"{Path(name).name}: not there. It may have been deleted") from None
