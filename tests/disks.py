"""Disks that are small, and full."""

import errno
import os
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

__all__ = ["fill", "small_disk"]


@pytest.fixture
def small_disk() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="kinora-disk-", ignore_cleanup_errors=True) as place:
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a small disk can't be mounted here")
        yield Path(place)
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(file: Path) -> None:
    """Take all room that there is."""

    def write(size: int) -> None:
        while True:
            filling.write(bytes(size))

    with file.open("wb", buffering=0) as filling:
        for size in (1 << 16, 1):
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                write(size)
