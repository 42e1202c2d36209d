"""Files of named tensors, read and written in one stroke: the border to safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from kinora.errors import CheckpointError, NotFiniteError, OutputError
from kinora.weights.read import bad_values

__all__ = ["read_tensors", "write_tensors"]


def read_tensors(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors whose name starts with the prefix, which is taken off, and the file's metadata.

    Raises CheckpointError when the file is missing or damaged, or holds NaN or infinity.
    """
    tensors, metadata = _read(path, prefix)
    for name, tensor in tensors.items():
        bad = bad_values(tensor)
        if bad is not None:
            raise CheckpointError(
                f"{path} holds {bad} (tensor {prefix}{name}), so nothing can go on from it; "
                "remove it to have it made anew"
            )
    return tensors, metadata


def _read(path: Path, prefix: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(path), "pt") as opened:  # pyright: ignore[reportUnknownVariableType]
            names = cast("list[str]", opened.keys())
            tensors = {
                name.removeprefix(prefix): cast(Tensor, opened.get_tensor(name))
                for name in names
                if name.startswith(prefix)
            }
            return tensors, cast("dict[str, str]", opened.metadata() or {})
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist") from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} can't be read ({error}); if it is damaged, remove it to have it made anew"
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a file under a temporary name, then give it its own; an old one lasts until then.

    Raises OutputError when it can't be written, and NotFiniteError when a tensor holds NaN or
    infinity; nothing is written then.
    """
    partial = path.with_name(path.name + ".partial")
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, tensor in ready.items():
        bad = bad_values(tensor)
        if bad is not None:
            raise NotFiniteError(f"{path} can't be written: tensor {name} holds {bad}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(ready, partial, metadata)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OutputError(f"can't write {path}: {reason}") from error
    finally:
        partial.unlink(missing_ok=True)
