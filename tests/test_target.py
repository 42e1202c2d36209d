"""Where results go: a name is never half taken, and never twice."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from kinora.errors import MediaError, OutputError
from kinora.media import (
    check_output,
    film,
    free_name,
    read_recipe,
    read_video,
    stills,
    target,
    write_video,
    write_video_free,
)
from tests.test_video import NAMES, RECIPE, left_in, smooth


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_overwritten_only_when_asked(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, smooth(3), 7, {"which": "first"})
    with pytest.raises(OutputError, match=f"{name}: exists already.* -y"):
        write_video(path, smooth(2), 7, {"which": "second"})
    with pytest.raises(OutputError, match="exists already"):
        check_output(path)
    assert read_recipe(path) == {"which": "first"}
    check_output(path, overwrite=True)
    write_video(path, smooth(2), 7, {"which": "second"}, overwrite=True)
    assert read_recipe(path) == {"which": "second"}
    assert len(read_video(path)[0]) == 2
    assert left_in(tmp_path) == [name]


def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    assert len(list(write_video(folder, smooth(2), 7, {}).iterdir())) == 2  # it was empty
    (folder / "frame-notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="other things than frames"):
            write_video(folder, smooth(2), 7, {}, overwrite=overwrite)
    assert len(left_in(folder)) == 3
    for name in ("film.mp4", "film.gif"):
        (tmp_path / name).mkdir()
        with pytest.raises(OutputError, match="not a file"):
            write_video(tmp_path / name, smooth(2), 7, {}, overwrite=True)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"not a folder.*\.mp4"):
        write_video(tmp_path / "file", smooth(2), 7, {}, overwrite=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no special files here")
def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(OutputError, match="not a file"):
        write_video(tmp_path / "pipe.mp4", smooth(1), 7, {}, overwrite=True)
    with pytest.raises(MediaError, match="not an ordinary file"):
        read_video(tmp_path / "pipe.mp4")


def test_missing_folders_are_made_and_unmade_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "er" / "clip.gif"
    check_output(path)
    assert left_in(tmp_path) == []
    assert write_video(path, smooth(2), 7, {}).is_file()
    monkeypatch.setattr(stills, "write_gif", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "other" / "new" / "clip.gif", smooth(2), 7, {})
    assert left_in(tmp_path) == ["new"]


def interrupted(path: Path, *_: object) -> None:
    path.write_bytes(b"half")
    raise KeyboardInterrupt


def failing_save(error: BaseException) -> Callable[..., None]:
    def save(self: Image.Image, path: Path, **_: object) -> None:
        if path.name != "frame-0001.png":
            path.write_bytes(b"half a picture")
            raise error
        path.write_bytes(b"whole")

    return save


DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("error", "becomes", "words"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (RuntimeError("bug"), RuntimeError, "bug"),
        (DISK_FULL, OutputError, "the disk is full. Free some space"),
        (PermissionError(errno.EACCES, "denied"), OutputError, "no permission"),
        (OSError(errno.EIO, "Input/output error"), OutputError, "Input/output error"),
    ],
)
def test_a_write_broken_off_leaves_everything_as_it_was(
    name: str,
    overwrite: bool,
    error: BaseException,
    becomes: type[BaseException],
    words: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / name
    if overwrite:
        write_video(path, smooth(2, 16, 16), 7, RECIPE)
    convert, calls = film.to_yuv, list[int]()

    def failing_convert(frame: np.ndarray[Any, Any]) -> av.VideoFrame:
        calls.append(1)
        if len(calls) == 5:
            raise error
        return convert(frame)

    monkeypatch.setattr(film, "to_yuv", failing_convert)
    monkeypatch.setattr(Image.Image, "save", failing_save(error))
    for write in (write_video, write_video_free):
        calls.clear()
        options = {"overwrite": overwrite} if write is write_video else {}
        with pytest.raises(becomes, match=words):
            write(path, smooth(8), 7, {}, **options)
        assert left_in(tmp_path) == ([name] if overwrite else [])
    monkeypatch.undo()
    if overwrite:
        assert read_recipe(path) == RECIPE
        assert len(read_video(path)[0]) == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interruption_while_renaming_loses_nothing(
    name: str, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    if overwrite:
        write_video(path, smooth(2, 16, 16), 7, {"which": "first"})

    def interrupted_rename(source: Path, to: Path) -> None:
        if source.suffix == ".part":
            raise KeyboardInterrupt
        os.rename(source, to)  # noqa: PTH104

    monkeypatch.setattr(Path, "rename", interrupted_rename)
    monkeypatch.setattr(Path, "replace", interrupted_rename)
    monkeypatch.setattr(Path, "hardlink_to", lambda to, source: interrupted_rename(source, to))
    with pytest.raises(KeyboardInterrupt):
        write_video(path, smooth(3, 16, 16), 7, {"which": "second"}, overwrite=overwrite)
    assert left_in(tmp_path) == ([name] if overwrite else [])
    if overwrite:
        assert read_recipe(path) == {"which": "first"}


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits here")
@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_really_refuses_more_is_one_error(name: str, tmp_path: Path) -> None:
    program = """
import resource, sys, numpy
from kinora.errors import OutputError
from kinora.media import write_video
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
noise = numpy.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=numpy.uint8)
try:
    write_video(sys.argv[1], noise, 7, {})
except OutputError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, str(tmp_path / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{tmp_path / name}: can't be written: File too large")
    assert done.stderr == ""
    assert left_in(tmp_path) == []


def test_places_that_cannot_be_written_to_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for check in (check_output, lambda path: write_video(path, smooth(1), 7, {})):
        with pytest.raises(OutputError, match="file is not a folder"):
            check(tmp_path / "file" / "clip.mp4")
        with pytest.raises(OutputError, match=r"\.avi is no kind of video.*\.mp4"):
            check(tmp_path / "clip.avi")
        with pytest.raises(OutputError, match="too long"):
            check(tmp_path / ("x" * 300) / "clip.mp4")
        with pytest.raises(OutputError, match="too long"):
            check(tmp_path / ("x" * 300 + ".mp4"))
        with pytest.raises(OutputError, match="null"):
            check(tmp_path / "clip\0.mp4")
    if Path("/proc/self").exists():  # not even root makes files here
        for name in NAMES:
            with pytest.raises(OutputError, match="Name another place"):
                write_video(Path("/proc") / name, smooth(1), 7, {})
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if not os.access(locked, os.W_OK):
        with pytest.raises(OutputError, match="no permission"):
            check_output(locked / "clip.mp4")


def test_free_names_count_up(tmp_path: Path) -> None:
    for name in ("photo.mp4", "photo-2.mp4", "photo-3.mp4"):
        assert free_name(tmp_path / "photo.mp4") == tmp_path / name
        (tmp_path / name).touch()
    (tmp_path / "frames").mkdir()
    assert free_name(tmp_path / "frames") == tmp_path / "frames-2"
    (tmp_path / "link.gif").symlink_to(tmp_path / "nowhere")
    assert free_name(tmp_path / "link.gif") == tmp_path / "link-2.gif"


def without_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("name", ["clip.gif", "clip"])
@pytest.mark.parametrize("links", [True, False])
def test_everyone_who_wants_the_same_free_name_gets_one(
    name: str, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:  # as on exFAT
        monkeypatch.setattr(Path, "hardlink_to", without_links)
    many = 12
    barrier, got = threading.Barrier(many), list[Path]()
    # All see the same name free, whoever takes it.
    seen = threading.local()

    def free_for_all(path: Path) -> Path:
        if not getattr(seen, "once", False):
            seen.once = True
            barrier.wait()
            return path
        return free_name(path)

    monkeypatch.setattr(target, "free_name", free_for_all)

    def work(number: int) -> None:
        got.append(write_video_free(tmp_path / name, smooth(1, 8, 8), 7, {"by": number}))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == many
    assert left_in(tmp_path) == sorted(path.name for path in got)
    recipes = [read_recipe(path) for path in got]
    assert sorted(recipe["by"] for recipe in recipes if recipe) == list(range(many))


@pytest.mark.parametrize("name", ["clip.gif", "clip"])
def test_a_name_taken_meanwhile_is_not_overwritten(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    for function in ("write_gif", "write_folder"):
        write = getattr(stills, function)

        def slow(*arguments: object, write: Callable[..., None] = write) -> None:
            write(*arguments)
            monkeypatch.undo()
            write_video(path, smooth(2), 7, {"by": "another"})

        monkeypatch.setattr(stills, function, slow)
    with pytest.raises(OutputError, match="exists already"):
        write_video(path, smooth(2), 7, {"by": "us"})
    assert read_recipe(path) == {"by": "another"}
    assert left_in(tmp_path) == [name]
