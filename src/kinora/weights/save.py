"""Save a model in our own format: one safetensors file with the configuration in its metadata."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from kinora.arguments import as_path, expect
from kinora.config import ModelConfig
from kinora.device import as_dtype
from kinora.errors import CheckpointError
from kinora.weights.keymap import as_tensors
from kinora.weights.names import NETWORKS, living_shapes, shapes
from kinora.weights.read import bad_values
from kinora.weights.variants import config_to_metadata
from kinora.weights.write import Planned, new_file, write_tensors

__all__ = ["own_metadata", "save_networks"]


def own_metadata(config: ModelConfig) -> dict[str, str]:
    """What the header of a file in our own format says besides tensors."""
    return {"format": "kinora", "config": config_to_metadata(config)}


def save_networks(
    path: str | Path,
    config: ModelConfig,
    networks: Mapping[str, nn.Module | Mapping[str, Tensor]],
    *,
    dtype: str | torch.dtype | None = None,
    unused: Mapping[str, Tensor] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model to one file, under a temporary name until it is complete.

    networks: `unet`, `vae` and `image_encoder`, each a module or its tensors by name.
    dtype: number format of all tensors; None keeps each one's own.
    unused: tensors that foreign formats want back, named `unused.…`.
    Raises CheckpointError when a tensor is missing, too many or of another shape, or doesn't fit
    the number format; OutputError when the file exists or can't be written.
    """
    path = as_path("path", path)
    expect("config", config, ModelConfig, "the model's ModelConfig")
    expect("networks", networks, Mapping, "a mapping of names to modules or to tensors by name")
    dtype = None if dtype is None else as_dtype(dtype)
    tensors = dict(as_tensors("unused", {} if unused is None else unused))
    for network in NETWORKS:
        if network not in networks:
            raise CheckpointError(f"{path} can't be written: the network {network} is missing")
        given = networks[network]
        state = given.state_dict() if isinstance(given, nn.Module) else given
        state = as_tensors(f"networks[{network!r}]", state)
        tensors.update({f"{network}.{name}": tensor for name, tensor in state.items()})
    _check(path, config, tensors)
    plan = [_planned(name, tensor, dtype or tensor.dtype) for name, tensor in tensors.items()]
    with new_file(path, overwrite=overwrite) as temporary:
        write_tensors(temporary, plan, own_metadata(config))
    return path


def _planned(name: str, tensor: Tensor, dtype: torch.dtype) -> Planned:
    return Planned(name, dtype, tuple(tensor.shape), partial(_stored, name, tensor, dtype))


def _stored(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    stored = tensor.detach().to("cpu", dtype)
    bad = bad_values(stored)
    if bad is not None:
        raise CheckpointError(f"{name} can't be stored as {dtype}: it would hold {bad}")
    return stored


def _check(path: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    known = shapes(config)
    missing = [name for name in living_shapes(config) if name not in tensors]
    unknown = [name for name in tensors if name not in known]
    if missing or unknown:
        what = f"{missing[0]} is missing" if missing else f"{unknown[0]} is not a tensor of it"
        raise CheckpointError(f"{path} can't be written: {what} ({config.name})")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != known[name]:
            raise CheckpointError(
                f"{path} can't be written: {name} has the shape {list(tensor.shape)} instead of "
                f"{list(known[name])} ({config.name})"
            )
