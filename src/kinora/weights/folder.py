"""Diffusers folders: which files they consist of, and opening one."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from kinora.errors import CheckpointError
from kinora.weights.checkpoint import Checkpoint, Stored
from kinora.weights.diffusers import COMPONENTS, diffusers_table
from kinora.weights.folder_config import read_config
from kinora.weights.read import TensorFile

__all__ = ["CONFIG_FILES", "index_names", "open_folder", "shard_names", "weight_names"]

CONFIG_FILES = (
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "image_encoder/config.json",
    "scheduler/scheduler_config.json",
)


def _stem(component: str) -> str:
    """The name of a component's weights without its endings."""
    return "model" if component == "image_encoder" else "diffusion_pytorch_model"


def weight_names(component: str, *, half: bool) -> list[str]:
    """The single files that a component's weights may come in, the preferred one first."""
    stem = _stem(component)
    endings = [".fp16", ""] if half else ["", ".fp16"]
    return [f"{component}/{stem}{ending}.safetensors" for ending in endings]


def index_names(component: str, *, half: bool) -> list[str]:
    """The indices of weights that come in several files, in the same order."""
    stem = _stem(component)
    full = [f"{component}/{stem}.safetensors.index.json"]
    fp16 = [
        f"{component}/{stem}.safetensors.index.fp16.json",
        f"{component}/{stem}.fp16.safetensors.index.json",
    ]
    return fp16 + full if half else full + fp16


def open_folder(path: Path, *, variant: str | None, half: bool) -> Checkpoint:
    """Open a diffusers folder. Raises CheckpointError when it isn't one or can't be understood."""
    if not (path / "model_index.json").is_file():
        raise CheckpointError(_not_a_folder(path))
    configs = {name: _read_json(path / name) for name in CONFIG_FILES}
    config, notes = read_config(path, configs, variant)
    stored = {
        f"{component}/{key}": place
        for component in COMPONENTS
        for key, place in _component(path, component, half).items()
    }
    return Checkpoint(path, "diffusers", config, diffusers_table(config), stored, notes)


def _component(path: Path, component: str, half: bool) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for file in _files(path, component, half):
        for key in file.entries:
            if key in found:
                raise CheckpointError(
                    f"{path / component}: two files hold {key}: "
                    f"{found[key].file.path.name} and {file.path.name}"
                )
            found[key] = Stored(file, key)
    return found


def _files(path: Path, component: str, half: bool) -> Iterator[TensorFile]:
    singles, indices = weight_names(component, half=half), index_names(component, half=half)
    preferred, other = ("fp16", "") if half else ("", "fp16")
    for wanted in (preferred, other):
        for name in (*singles, *indices):
            if (".fp16" in name) == bool(wanted) and (path / name).is_file():
                if name in singles:
                    yield TensorFile(path / name)
                else:
                    yield from map(TensorFile, _shards(path / name))
                return
    pickles = sorted((path / component).glob("*.bin")) if (path / component).is_dir() else []
    hint = f" ({pickles[0].name} is a pickle, which Kinora never opens)" if pickles else ""
    raise CheckpointError(f"{path} is incomplete: {singles[0]} is missing{hint}")


def shard_names(index: Path) -> list[str]:
    """The files that an index names, which must lie beside it."""
    try:
        names = sorted(set(cast("dict[str, str]", _read_json(index)["weight_map"]).values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} is damaged: it has no weight_map") from error
    if any(Path(name).name != name for name in names):
        raise CheckpointError(f"{index} names files outside its folder; it is not trusted")
    return names


def _shards(index: Path) -> list[Path]:
    names = shard_names(index)
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} is incomplete: {len(missing)} of the {len(names)} files that "
            f"{index.name} names are missing, first {missing[0]}"
        )
    return [index.parent / name for name in names]


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; the folder is incomplete") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it should hold a table of settings")
    return cast("dict[str, Any]", values)


def _not_a_folder(path: Path) -> str:
    files = sorted(file.name for file in path.glob("*.safetensors"))
    if files:
        return (
            f"{path} is no diffusers folder: it has no model_index.json. Name one of the files in "
            f"it, such as {path / files[0]}"
        )
    return f"{path} is no diffusers folder: it has no model_index.json and no .safetensors file"
