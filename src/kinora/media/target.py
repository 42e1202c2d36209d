"""Where a result goes: never over something else, all of it or nothing."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Final

from kinora.arguments import as_path
from kinora.errors import OccupiedError, OutputError

__all__ = [
    "FRAME_NAME",
    "SUFFIXES",
    "check_output",
    "check_place",
    "draft",
    "free_name",
    "publish",
    "publish_free",
]

SUFFIXES: Final = (".mp4", ".webm", ".gif", ".webp", "")
"""What a clip can be saved as; a name without suffix is a folder of PNGs."""

FRAME_NAME: Final = re.compile(r"frame-\d{4,}\.png")


def free_name(path: str | Path) -> Path:
    """The path itself if nothing is there, else the next free one: photo.mp4, photo-2.mp4, …"""
    path = as_path("path", path)
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    # A link that points nowhere is taken, too.
    return next(name for name in chain((path,), others) if not os.path.lexists(name))


def check_output(path: str | Path, *, overwrite: bool = False) -> None:
    """Say at once, before hours of work, whether a clip can be saved under this name.

    Raises OutputError when the suffix is unknown, the name taken (unless it may be overwritten),
    or the folder can't be written to.
    """
    check_place(path)
    _check_free(as_path("path", path), overwrite=overwrite)


def check_place(path: str | Path) -> None:
    """The same for a name of which the next free one will be taken.

    Raises OutputError when the suffix is unknown or the folder can't be written to.
    """
    path = as_path("path", path)
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"{path}: {path.suffix} is no kind of video that Kinora writes. Name it .mp4, .webm, "
            ".gif or .webp, or without a dot for a folder of PNGs"
        )
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # such as a name that is too long
        raise _unwritable(path, error) from error
    folder = path.absolute().parent
    while not os.path.lexists(folder):  # missing folders will be made
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{path}: {folder} is not a folder. Name another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write in {folder}. Name another place")


def _check_free(path: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if path.suffix:
        if path.is_dir() or (path.exists() and not path.is_file()):
            raise OccupiedError(f"{path}: exists and is not a file. Choose another name")
        if not overwrite:
            raise OccupiedError.replaceable(path)
        return
    if not path.is_dir() or path.is_symlink():
        raise OccupiedError(
            f"{path}: exists and is not a folder. A name without suffix means a folder of PNGs; "
            "for a video add .mp4"
        )
    try:
        names = [entry.name for entry in path.iterdir()]
    except OSError as error:
        raise _unwritable(path, error) from error
    if any(not FRAME_NAME.fullmatch(name) for name in names):
        raise OccupiedError(f"{path}: holds other things than frames. Choose another name")
    if names and not overwrite:
        raise OccupiedError.replaceable(path)


@contextmanager
def draft(target: Path) -> Generator[Path, None, None]:
    """A temporary name beside the target, free to be filled with a file or a folder.

    Missing folders are made. Whatever still lies under the temporary name in the end is removed,
    and after any failure or interruption the folders made are, too.
    Raises OutputError in place of any OSError.
    """
    folder = target.absolute().parent
    temporary = folder / f".kinora-{secrets.token_hex(6)}.part"
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield temporary
    except BaseException as error:
        _remove(temporary)
        for empty in missing:
            with suppress(OSError):
                empty.rmdir()
        if isinstance(error, OSError):
            raise _unwritable(target, error) from error
        raise
    _remove(temporary)


def publish(temporary: Path, target: Path, *, overwrite: bool = False) -> Path:
    """Give a finished draft its name; at no moment is there half a result under it.

    Raises OutputError when the name is taken, be it since a moment ago by another process.
    """
    _check_free(target, overwrite=overwrite)
    if temporary.is_dir() and overwrite and target.exists():
        _exchange(temporary, target)
    elif temporary.is_dir():
        _move_folder(temporary, target)
    else:
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(target)
        else:
            _link(temporary, target)
    return target


def publish_free(temporary: Path, target: Path) -> Path:
    """Give a finished draft its name or, if that is taken, the next free one, which is returned."""
    while True:
        try:
            return publish(temporary, free_name(target))
        except OccupiedError:  # another process was quicker
            continue


def _link(temporary: Path, target: Path) -> None:
    """Rename, but never over anything (which `rename` would do on Unix)."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        raise OccupiedError.replaceable(target) from None
    except OSError:  # a file system without links: claim the name with an empty file
        try:
            target.touch(exist_ok=False)
        except FileExistsError:
            raise OccupiedError.replaceable(target) from None
        try:
            temporary.replace(target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _move_folder(temporary: Path, target: Path) -> None:
    """Rename a folder to a name that is free, or that of an empty folder."""
    try:
        if target.exists():
            target.rmdir()
        temporary.rename(target)  # never replaces a folder that holds anything
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise OccupiedError.replaceable(target) from None
        raise


def _exchange(temporary: Path, target: Path) -> None:
    """Put a folder of frames in the place of an older one."""
    old = temporary.with_suffix(".old")
    try:
        target.rename(old)
        temporary.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    for path in old.iterdir():
        if FRAME_NAME.fullmatch(path.name):
            path.unlink()
    with suppress(OSError):  # something else came in meanwhile: it stays
        old.rmdir()


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _unwritable(path: Path, error: OSError | ValueError) -> OutputError:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(f"{path}: the disk is full. Free some space, or name another place")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path}: no permission to write there. Name another place")
    reason = getattr(error, "strerror", None) or error
    return OutputError(f"{path}: can't be written: {reason}. Name another place")
