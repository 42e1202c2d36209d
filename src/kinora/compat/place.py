"""Move a loaded model, as those libraries' `.to` does."""

from collections.abc import Mapping

import torch

from kinora.device import pick_device
from kinora.pipeline import Pipeline

__all__ = ["dtype_name", "offload", "place"]


def place(
    pipeline: Pipeline,
    device: str | int | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Move the networks, where anything changes; the image branch of the autoencoder stays in fp32.

    device: an accelerator may be told by its number.
    Raises DeviceError when the device is not there, or a clip is being made.
    """
    pipeline.move(None if device is None else pick_device(_name(device)), dtype)


def offload(
    pipeline: Pipeline, device: str | int | torch.device | None, measures: Mapping[str, bool]
) -> None:
    """Work on a device, the best one if none is named, without all networks staying there.

    measures: the fewest that a memory plan takes, see `Steps.offload`.
    Raises DeviceError when the device is not there, or a clip is being made.
    """
    pipeline.offload(measures, pick_device(None if device is None else _name(device)))


def dtype_name(dtype: torch.dtype) -> str:
    """The name that `kinora.load` knows a precision by."""
    return str(dtype).removeprefix("torch.")


def _name(device: str | int | torch.device) -> str:
    return f"cuda:{device}" if isinstance(device, int) else str(device)
