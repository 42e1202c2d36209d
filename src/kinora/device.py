"""Which device and precision to work with."""

from typing import Final

import torch

from kinora.errors import DeviceError

__all__ = ["DTYPES", "pick_device", "pick_dtype"]

DTYPES: Final = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


def pick_device(name: str | None = None) -> torch.device:
    """A device by its name ("cpu", "cuda", "cuda:1", "mps"), or the best one there is.

    Raises DeviceError when the name is unknown or the device is not there.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device {name!r}: must be cpu, cuda, cuda:N or mps") from error
    there = {
        "cpu": True,
        "mps": _has_mps(),
        "cuda": (device.index or 0) < torch.cuda.device_count(),
    }
    if device.type not in there:
        raise DeviceError(f"device {name!r}: must be cpu, cuda, cuda:N or mps")
    if not there[device.type]:
        raise DeviceError(
            f"device {name!r}: torch finds none here; leave the device out to take the best one"
        )
    return device


def pick_dtype(name: str | None, device: torch.device) -> torch.dtype:
    """A precision by its name, or the one to use on a device: half on CUDA, else single.

    On MPS, half precision is reported to give black frames; CPUs are slow at it.
    Raises DeviceError for an unknown name.
    """
    if name is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise DeviceError(f"dtype {name!r}: must be one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
