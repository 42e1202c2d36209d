"""Every failure of the command line is one readable message, and the exit code says which kind."""

import errno
import os
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kinora.pipeline import Pipeline
from kinora.weights import load
from tests.cli import Kinora, folder, kinora, model, write_photo

__all__ = ["folder", "kinora", "model"]

ANIMATE = ("animate", "cat.png", "--steps", "1")


def one_message(err: str) -> str:
    """The message, without the two lines of usage that may stand before it."""
    lines = [line for line in err.splitlines() if line]
    assert lines[-1].startswith("Error: "), err
    assert all(line.startswith(("Usage: ", "Try ")) for line in lines[:-1]), err
    return lines[-1].removeprefix("Error: ")


def bomb(path: Path) -> Path:
    """A PNG that says it has 30,000 by 30,000 pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(bytes(30_001) * 100)
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def bad_photos(place: Path) -> dict[str, str]:
    """Files that are no good, and what is said of each."""
    place.mkdir()
    (place / "empty.jpg").touch()
    (place / "text.jpg").write_text("dear diary")
    whole = write_photo(place / "whole.jpg", 300, 200).read_bytes()
    (place / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    bomb(place / "bomb.png")
    (place / "folder.jpg").mkdir()
    return {
        "empty.jpg": "empty, it holds no picture",
        "text.jpg": "it is a text file",
        "cut.jpg": "damaged or cut off",
        "bomb.png": "30000x30000 pixels|900000000 pixels",
        "folder.jpg": "a folder, not a photo",
        "missing.jpg": "no such file",
        "*.jpeg": "no file matches",
    }


def test_a_bad_photo_is_named_before_the_model_is_loaded(
    kinora: Kinora, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("kinora.loading.load")
    write_photo(folder / "cat.png")
    for name, words in bad_photos(folder / "bad").items():
        code, out, err = kinora("animate", "cat.png", f"bad/{name}", "--model", model)
        assert (code, out) == (1, ""), name
        message = one_message(err)
        assert f"bad/{name}" in message
        assert re.search(words, message), message
    assert sorted(path.name for path in folder.iterdir()) == ["bad", "cat.png"]


def test_the_smallest_photo_and_the_shortest_clip_work(
    kinora: Kinora, folder: Path, model: Path
) -> None:
    Image.fromarray(np.full((1, 1, 3), 99, np.uint8)).save("dot.png")
    made = kinora("animate", "dot.png", "--model", model, "--steps", 1, "--frames", 1)
    assert made == (0, "dot.mp4\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--frames 0", "frames 0: must be a whole number from 1 to 256"),
        ("--frames 10000", "frames 10000: must be"),
        ("--frames 2.5", "frames '2.5': must be a whole number"),
        ("--size 100x100", "size 100x100: .* the nearest is 96x96"),
        ("--size 0x0", "size 0: must be a whole number from 1 to 4096"),
        ("--size large", "size 'large': must be width and height"),
        ("--steps 0", "steps 0: must be"),
        ("--fps 61", "fps 61: must be"),
        ("--motion 999", "motion 999: must be a whole number from 0 to 255"),
        ("--guidance nan", "guidance nan: must be a number from 0 to 100"),
        ("--guidance 1:nan", "guidance nan: must be"),
        ("--guidance 1:2:3", "guidance '1:2:3': must be two numbers"),
        ("--noise-aug inf", "noise_aug inf: must be"),
        ("--noise-aug some", "noise_aug 'some': must be a number"),
        ("--seed -1", "seed -1: must be"),
        ("--seed 9223372036854775807 --seeds 2", "seed 9223372036854775808: must be"),
        ("--seeds 0", "seeds 0: must be a whole number from 1 to"),
        ("--seeds 2 -o two.mp4", "output two.mp4: one file, but 2 clips"),
        ("--sampler ddim", "sampler 'ddim': must be one of euler"),
        ("--fit squeeze", "fit 'squeeze': must be one of crop"),
        ("--decode-chunk 0", "decode_chunk 0: must be"),
        ("--quality best", "quality 'best': must be one of exact, balanced, fast, draft"),
        ("--inner-every 0", "inner_every 0: must be a whole number from 1 to 100"),
        ("--guidance-every x", "guidance_every"),
        ("--video-quality 11", "video_quality 11: must be a whole number from 1 to 10"),
        ("--device tpu", "device 'tpu': must be cpu, cuda"),
        ("--memory lots", "memory 'lots': must be an amount such as 6GiB"),
        ("--dtype float8", "dtype 'float8': must be one of float16"),
        ("--vae-dtype float8", "vae_dtype 'float8': must be one of float16"),
        ("--variant svd-xl", "variant 'svd-xl': must be one of svd"),
        ("--motions 3", "No such option: --motions"),
    ],
)
def test_a_wrong_value_is_wrong_usage(
    kinora: Kinora, folder: Path, model: Path, options: str, message: str
) -> None:
    write_photo(folder / "cat.png")
    code, out, err = kinora(*ANIMATE, "--model", model, *options.split())
    assert (code, out) == (2, "")
    assert re.search(message, one_message(err)), err
    assert [path.name for path in folder.iterdir()] == ["cat.png"]


def test_without_a_photo_or_with_an_unknown_command_usage_is_shown(kinora: Kinora) -> None:
    for arguments in (("animate",), ("animation", "cat.png"), ("train", "clip")):
        code, out, err = kinora(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("Usage: kinora")
        one_message(err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--memory 5MB", "not enough memory: .* frames of .* take at least .* there are 5 MiB"),
        ("--model no-such-model", "no-such-model: no such file .* Known are nano, svd, svd-xt"),
        ("--model no/such.safetensors", "no/such.safetensors: no such file"),
        ("-o clip.avi", "clip.avi: .avi is no kind of video"),
        ("-o cat.png/clip.mp4", "cat.png is not a folder"),
        ("--device cuda:63", "device 'cuda:63': torch finds none here"),
    ],
)
def test_what_is_not_there_is_a_failure(
    kinora: Kinora, folder: Path, model: Path, options: str, message: str
) -> None:
    write_photo(folder / "cat.png")
    code, out, err = kinora(*ANIMATE, "--model", model, *options.split())
    assert (code, out) == (1, "")
    assert re.search(message, one_message(err)), err


def test_a_target_that_cant_be_written_is_found_first(
    kinora: Kinora, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photo(folder / "cat.png")
    monkeypatch.delattr("kinora.loading.load")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root
    for output in ((), ("-o", "clip.mp4"), ("-o", "clips/"), ("--seeds", "2", "-o", "clips")):
        code, out, err = kinora(*ANIMATE, "--model", model, *output)
        assert (code, out) == (1, "")
        assert "no permission to write" in one_message(err)


def test_a_full_disk_leaves_nothing(
    kinora: Kinora, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_photo(folder / "cat.png")
    monkeypatch.setattr(os, "fsync", full)
    code, out, err = kinora(*ANIMATE, "--model", model, "-o", "new/clip.mp4")
    assert (code, out) == (1, "")
    assert "the disk is full" in one_message(err)
    assert [path.name for path in folder.iterdir()] == ["cat.png"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "m.safetensors"),
        (b"dear diary", "not a safetensors file"),
        (b"PK\x03\x04" + bytes(100), "pickle|safetensors"),
    ],
)
def test_a_broken_checkpoint_is_named(
    kinora: Kinora, folder: Path, data: bytes, message: str
) -> None:
    write_photo(folder / "cat.png")
    (folder / "m.safetensors").write_bytes(data)
    for arguments in ((*ANIMATE, "--model", "m.safetensors"), ("info", "m.safetensors")):
        code, out, err = kinora(*arguments)
        assert (code, out) == (1, "")
        assert re.search(message, one_message(err)), err


def test_a_checkpoint_cut_off_is_named(kinora: Kinora, folder: Path, model: Path) -> None:
    write_photo(folder / "cat.png")
    (folder / "m.safetensors").write_bytes(model.read_bytes()[:-1000])
    for arguments in (
        (*ANIMATE, "--model", "m.safetensors"),
        ("info", "m.safetensors", "--verify"),
    ):
        code, out, err = kinora(*arguments)
        assert (code, out) == (1, "")
        assert "m.safetensors" in one_message(err)


def test_memory_that_runs_out_is_said_with_what_to_lower(
    kinora: Kinora, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photo(folder / "cat.png")
    errors = (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
        MemoryError(),
    )
    for error in errors:

        def stream(
            self: Pipeline, requests: object, cache: object, *, e: Exception = error
        ) -> None:
            raise e

        monkeypatch.setattr(Pipeline, "stream", stream)
        code, out, err = kinora(*ANIMATE, "--model", model)
        assert (code, out) == (1, "")
        assert "--size or --frames" in one_message(err)


def test_a_bug_is_one_line_unless_asked(
    kinora: Kinora, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(self: Pipeline, requests: object, cache: object) -> None:
        raise ZeroDivisionError("division by zero\nmore")

    write_photo(folder / "cat.png")
    monkeypatch.setattr(Pipeline, "stream", stream)
    monkeypatch.delenv("KINORA_DEBUG", raising=False)
    code, out, err = kinora(*ANIMATE, "--model", model)
    assert (code, out) == (1, "")
    message = one_message(err)
    assert "a bug in Kinora" in message
    assert "ZeroDivisionError: division by zero)" in message
    assert "KINORA_DEBUG=1" in message
    monkeypatch.setenv("KINORA_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        kinora(*ANIMATE, "--model", model)


def test_an_interruption_ends_with_130(
    kinora: Kinora, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: object, **options: object) -> None:
        raise KeyboardInterrupt

    write_photo(folder / "cat.png")
    monkeypatch.setattr(load, "open_checkpoint", interrupted)
    assert kinora(*ANIMATE, "--model", model) == (130, "", "Interrupted\n")


def test_the_wrong_kind_of_file_is_said(kinora: Kinora, folder: Path) -> None:
    (folder / "text.mp4").write_text("dear diary")
    (folder / "empty.mp4").touch()
    (folder / "empty").mkdir()
    names = ("text.mp4", "empty.mp4", "empty", "missing.mp4", "missing.safetensors", "svd-xt")
    for name in names:
        code, out, err = kinora("info", name)
        assert (code, out) == (1, "")
        assert name in one_message(err)


@pytest.mark.skipif(sys.platform == "win32", reason="closed pipes are another matter there")
def test_a_reader_that_went_away_is_no_bug(kinora: Kinora, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(text: str) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys.modules["kinora.cli.models"], "result", gone)
    assert kinora("models")[:2] == (1, "")
