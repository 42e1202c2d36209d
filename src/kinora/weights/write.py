"""Write safetensors files one tensor at a time, so that memory stays small and no half file is
ever left under the name that was asked for."""

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kinora.errors import OccupiedError, OutputError
from kinora.weights.read import DTYPE_NAMES

__all__ = ["Planned", "new_file", "new_folder", "write_tensors"]


def _nothing(*_: object) -> None:
    pass


class Planned(NamedTuple):
    """A tensor that will be written: what the header says of it, and how to make it."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Tensor]
    release: Callable[[], None] = _nothing
    """Called once it is written."""

    @property
    def size(self) -> int:
        """In bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_tensors(
    path: Path,
    plan: Sequence[Planned],
    metadata: Mapping[str, str],
    wrote: Callable[[int], None] = _nothing,
) -> None:
    """Write a safetensors file at `path`, which should be a temporary name.

    Wide numbers come first, then names in order, as the safetensors library lays them out.
    wrote: told the bytes of each tensor once it is written.
    """
    ordered = sorted(plan, key=lambda item: (-item.dtype.itemsize, item.key))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for item in ordered:
        end = offset + item.size
        header[item.key] = {
            "dtype": DTYPE_NAMES[item.dtype],
            "shape": item.shape,
            "data_offsets": (offset, end),
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for item in ordered:
            tensor = item.make().detach().to("cpu", item.dtype).contiguous()
            if tuple(tensor.shape) != item.shape:
                raise ValueError(f"{item.key}: planned {item.shape}, made {tuple(tensor.shape)}")
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
            item.release()
            wrote(item.size)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_file(path: Path, *, overwrite: bool) -> Generator[Path, None, None]:
    """A temporary name beside `path`, which takes its name when the block ends well.

    Raises OutputError when `path` exists and must not be replaced, or can't be written.
    """
    if path.is_dir():
        raise OutputError(
            f"{path} is a folder; name a file in it, such as {path / 'model'}.safetensors"
        )
    _refuse_existing(path, overwrite)
    with _temporary_folder(path) as folder:
        yield folder / path.name
        (folder / path.name).replace(path)


@contextmanager
def new_folder(path: Path, *, overwrite: bool) -> Generator[Path, None, None]:
    """The same for a folder. Only a diffusers folder or an empty one is ever replaced."""
    empty = path.is_dir() and not any(path.iterdir())
    if not empty:
        _refuse_existing(path, overwrite)
    if path.exists() and not empty and not (path / "model_index.json").is_file():
        raise OutputError(
            f"{path} is not a diffusers folder, so it is not replaced; name a new one"
        )
    with _temporary_folder(path) as folder:
        new = folder / "new"
        new.mkdir()
        yield new
        if path.exists():
            path.replace(folder / "old")
        new.replace(path)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise OccupiedError.replaceable(path)


@contextmanager
def _temporary_folder(path: Path) -> Generator[Path, None, None]:
    """A hidden folder on the same disk, gone afterwards whatever happens."""
    folder: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield folder
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror or error}") from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
