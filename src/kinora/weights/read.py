"""Safetensors files: read the header, map the tensors, refuse what is damaged or something else."""

import json
import math
import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch
from torch import Tensor

from kinora.errors import CheckpointError

__all__ = ["DTYPES", "DTYPE_NAMES", "Entry", "TensorFile", "bad_values"]

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""The number formats that weights come in here."""

DTYPE_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

MAX_HEADER = 100_000_000
"""Bytes; what the safetensors library allows."""


class Entry(NamedTuple):
    """One tensor of a file, not read yet."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Position of the first byte in the file."""
    stop: int


class TensorFile:
    """A safetensors file, mapped: a tensor costs memory only once its values are touched.

    Raises CheckpointError, naming the file, when it is missing, empty, cut short, damaged, a
    pickle, or something else altogether.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = _size(path)
        with path.open("rb") as file:
            head = file.read(4096)
            _refuse_other_kinds(path, head)
            file.seek(0)
            header, self.data_start = _read_header(path, file, self.size)
        self.metadata = cast("dict[str, str]", header.pop("__metadata__", {}))
        self.entries = dict(_entries(path, header, self.data_start, self.size))
        self._map: mmap.mmap | None = None

    def tensor(self, key: str) -> Tensor:
        """A tensor that lies in the file's mapping; writing to it doesn't change the file."""
        entry = self.entries[key]
        count = (entry.stop - entry.start) // entry.dtype.itemsize
        if count == 0:
            return torch.empty(entry.shape, dtype=entry.dtype)
        if self._map is None:
            self._map = _map_privately(self.path)
        flat = torch.frombuffer(self._map, dtype=entry.dtype, count=count, offset=entry.start)
        return flat.reshape(entry.shape)

    def forget(self, key: str) -> None:
        """Give the memory of a tensor that was read back, where the system can; it is read again
        from the file when touched again. Whoever wrote to it loses what they wrote."""
        if self._map is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        entry = self.entries[key]
        start = -(-entry.start // mmap.PAGESIZE) * mmap.PAGESIZE
        stop = entry.stop // mmap.PAGESIZE * mmap.PAGESIZE
        if stop > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)


def bad_values(tensor: Tensor) -> str | None:
    """What is wrong with a tensor's values, if anything is: "NaN" or "infinity".

    The smallest and the largest value tell, in one pass without copies: either is NaN as soon as
    any value is. (Measured: 12 GB/s a core, against 0.3 for a sum of halves.)
    """
    if tensor.numel() == 0:
        return None
    extremes = torch.stack(tensor.detach().aminmax())
    low, high = cast("list[float]", extremes.tolist())  # waits for the device once
    if math.isnan(low):
        return "NaN"
    return "infinity" if math.isinf(low) or math.isinf(high) else None


def _map_privately(path: Path) -> mmap.mmap:
    """Map a file so that writes stay in memory, without reserving memory for them."""
    with path.open("rb") as file:
        if not hasattr(mmap, "MAP_PRIVATE"):
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
        return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _size(path: Path) -> int:
    try:
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "does not exist"
            raise CheckpointError(f"{path} {kind}; a safetensors file was expected")
        return path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    start = head.lstrip()[:64].lower()
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes); download or copy it again")
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) or (
        path.suffix in {".ckpt", ".bin", ".pt", ".pth", ".pkl"}
    ):
        raise CheckpointError(
            f"{path} is a pickle, which can run any program when it is opened, so Kinora never "
            "opens one. Take the model's .safetensors file; if there is none and you trust the "
            "file, convert it on a machine that holds nothing of value: "
            'safetensors.torch.save_file(torch.load(FILE, weights_only=True)["state_dict"], '
            '"model.safetensors")'
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer ({len(head)} bytes of text), not the weights themselves; "
            "run `git lfs pull` in that folder, or download the file"
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page, not weights: the download was refused or went wrong; "
            "open the file in a browser to see what it says, then download it again"
        )
    if start.startswith(b"gguf"):
        raise CheckpointError(f"{path} is a GGUF file; Kinora reads safetensors only")
    if start.startswith(b"{"):
        raise CheckpointError(f"{path} is JSON text, not weights; give a .safetensors file")


def _read_header(path: Path, file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    if size < 10:
        raise CheckpointError(f"{path} has {size} bytes, too few for a safetensors file")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER:
        raise CheckpointError(f"{path} is not a safetensors file: it doesn't start with a header")
    if 8 + length > size:
        raise CheckpointError(
            f"{path} is cut short: its header alone should be {length:,} bytes long, the file has "
            f"{size:,}; download or copy it again"
        )
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not a safetensors file, or damaged: its header is not readable ({error})"
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} is damaged: its header is not a table of tensors")
    return cast("dict[str, Any]", header), 8 + length


def _entries(
    path: Path, header: Mapping[str, Any], data_start: int, size: int
) -> Iterator[tuple[str, Entry]]:
    end = data_start
    try:
        for key, value in header.items():
            dtype = value["dtype"]
            if dtype not in DTYPES:
                raise CheckpointError(
                    f"{path}: tensor {key} is stored as {dtype}; Kinora reads "
                    f"{', '.join(DTYPES)} (no quantised weights)"
                )
            shape = tuple(int(n) for n in value["shape"])
            start, stop = (data_start + int(n) for n in value["data_offsets"])
            bytes_needed = torch.Size(shape).numel() * DTYPES[dtype].itemsize
            if (
                not data_start <= start <= stop
                or stop - start != bytes_needed
                or min(shape, default=0) < 0
            ):
                raise CheckpointError(f"{path} is damaged: the place of tensor {key} is impossible")
            end = max(end, stop)
            yield key, Entry(DTYPES[dtype], shape, start, stop)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its header makes no sense ({error})") from error
    if end > size:
        raise CheckpointError(
            f"{path} is cut short: it should have {end:,} bytes, it has {size:,}; "
            "download or copy it again"
        )
    if end < size:
        raise CheckpointError(
            f"{path} is damaged: {size - end:,} bytes at its end belong to no tensor"
        )
