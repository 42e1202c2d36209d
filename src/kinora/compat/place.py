"""Move a loaded model, as those libraries' `.to` does."""

import torch

from kinora.device import pick_device
from kinora.pipeline import Pipeline

__all__ = ["dtype_name", "place"]


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


def dtype_name(dtype: torch.dtype) -> str:
    """The name that `kinora.load` knows a precision by."""
    return str(dtype).removeprefix("torch.")


def _name(device: str | int | torch.device) -> str:
    return f"cuda:{device}" if isinstance(device, int) else str(device)
