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
    """Move the networks; the image branch of the autoencoder stays in fp32.

    device: an accelerator may be told by its number.
    Raises DeviceError when the device is not there.
    """
    where = None if device is None else pick_device(_name(device))
    pipeline.residency.settle()
    for network in (pipeline.unet, pipeline.image_encoder, pipeline.vae.decoder):
        network.to(device=where, dtype=dtype)
    if pipeline.vae.post_quant_conv is not None:
        pipeline.vae.post_quant_conv.to(device=where, dtype=dtype)
    pipeline.vae.to(device=where)


def dtype_name(dtype: torch.dtype) -> str:
    """The name that `kinora.load` knows a precision by."""
    return str(dtype).removeprefix("torch.")


def _name(device: str | int | torch.device) -> str:
    return f"cuda:{device}" if isinstance(device, int) else str(device)
