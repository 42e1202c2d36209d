"""Where photos and clips lie: a folder, or a bucket that several machines share."""

import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import fsspec  # pyright: ignore[reportMissingTypeStubs]
import structlog

from kinora.errors import OutputError, RequestError
from kinora.serve.errors import Busy, Missing, is_full

__all__ = ["Files", "make_private", "room"]

BLOCK = 1 << 20
"""Bytes read at a time."""
OWN_FOLDER, OWN_FILE = 0o700, 0o600
"""Modes of what only the user may read that the service runs as."""

log = structlog.get_logger()


class Files:
    """Files by names such as "jobs/1f/1f…/clip.mp4", each whole or not there at all.

    Names are made by the service, never by clients.
    """

    def __init__(self, url: str, *, private: bool = False) -> None:
        """url: a folder, or "s3://bucket/prefix" and whatever else fsspec knows.

        private: whether nobody but this user may read what is in the folder.
        Raises RequestError when there is no such place.
        """
        try:
            self.system, self.root = cast(Any, fsspec).core.url_to_fs(url)
            self.is_local = "file" in self.system.protocol
            if self.is_local:
                Path(self.root).mkdir(OWN_FOLDER if private else 0o777, parents=True, exist_ok=True)
            else:
                self.system.makedirs(self.root, exist_ok=True)
        except (ImportError, ValueError, OSError) as error:
            raise RequestError(f"storage {url}: {error}") from error
        self.private = private

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
        with room("the storage"):
            folder = Path(place).parent if self.is_local else Path(tempfile.gettempdir())
            self._make_folder(folder)
            draft = folder / f".{secrets.token_hex(8)}{Path(name).suffix}"
            try:
                yield draft
                if self.private:
                    draft.chmod(OWN_FILE)
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

    def about(self, name: str) -> tuple[int, str]:
        """Bytes of a file, and a tag that is another one for other content. Raises Missing."""
        with _there(name):
            found = self.system.info(f"{self.root}/{name}")
        size = int(found["size"])
        tag = repr((size, found.get("ETag") or _time(found)))
        return size, hashlib.sha256(tag.encode()).hexdigest()[:32]

    def part(self, name: str, start: int, end: int) -> Iterator[bytes]:
        """Bytes from start up to end, in blocks. Raises Missing, at once."""
        with _there(name):
            file = self.system.open(f"{self.root}/{name}", "rb")

        def blocks() -> Generator[bytes]:
            with file:
                file.seek(start)
                left = end - start
                while left and (block := file.read(min(BLOCK, left))):
                    left -= len(block)
                    yield block

        return blocks()

    def path(self, name: str) -> Path:
        """Of a file in a local folder."""
        return Path(self.root) / name

    @contextmanager
    def local(self, name: str) -> Generator[Path]:
        """A file as one of this machine's. Raises Missing, or Busy when there is no room for it."""
        if self.is_local:
            yield self.path(name)
            return
        with ExitStack() as stack:
            with room("the temporary directory"):
                folder = stack.enter_context(tempfile.TemporaryDirectory())
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

    def prune(self, folder: str, seconds: float) -> None:
        """Remove empty folders within one in which nothing has changed for so long."""
        if self.is_local:
            for place, _, _ in os.walk(self.path(folder), topdown=False):
                with suppress(OSError):  # it isn't empty, or gone
                    if Path(place).stat().st_mtime < time.time() - seconds:
                        Path(place).rmdir()

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

    def _make_folder(self, folder: Path) -> None:
        missing = [f for f in (folder, *folder.parents) if not f.exists()]
        for place in reversed(missing):
            place.mkdir(OWN_FOLDER if self.private else 0o777, exist_ok=True)


def make_private(folder: Path, names: Collection[str]) -> None:
    """Have nobody but this user read a folder of the service, which is made if missing.

    names: patterns of what is the service's own in it. What else is there stays as it is, and so
    does the folder itself then: somebody else may be using it.
    Raises RequestError when it can't be made.
    """
    try:
        folder.mkdir(OWN_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{folder}: can't be made: {error.strerror}") from error
    own = {path for name in names for path in folder.glob(name)}
    places = [*own, *(found for path in own for found in path.rglob("*"))]
    others = {path.name for path in folder.iterdir()} - {path.name for path in own}
    try:
        for place in places if others else [folder, *places]:
            if not place.is_symlink():
                place.chmod(OWN_FOLDER if place.is_dir() else OWN_FILE)
    except FileNotFoundError:  # another process is at work in it, which makes it private too
        pass
    except OSError as error:
        log.warning("data_readable_by_others", reason=str(error.strerror))
    if others:
        log.warning("data_folder_of_others", others=sorted(others)[:5])


def _to_disk(path: Path) -> None:
    """A power cut from here on takes nothing of it away."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def room(place: str) -> Generator[None]:
    """Have what can't be written to a place told as such. Raises Busy."""
    try:
        yield
    except (OSError, OutputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        reason = "is full" if is_full(error) else "can't be written to"
        raise Busy(f"{place} {reason}. Try again later") from error


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
