"""Which device and precision to work with."""

from contextlib import AbstractContextManager, nullcontext
from typing import Final, cast

import torch

from kinora.arguments import shown
from kinora.errors import DeviceError

__all__ = ["DTYPES", "as_dtype", "own_precision", "pick_device", "pick_dtype", "with_index"]

DTYPES: Final = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


def pick_device(name: str | int | torch.device | None = None) -> torch.device:
    """A device by its name ("cpu", "cuda", "cuda:1", "mps"), or the best one there is.

    name: torch's device objects and numbers of CUDA devices are taken, too.
    Raises DeviceError when the name is unknown or the device is not there.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"
    given = cast("object", name)
    text = shown(str(name) if isinstance(given, torch.device) else given)
    refusal = f"device {text}: must be cpu, cuda, cuda:N or mps"
    if isinstance(given, bool) or not isinstance(given, str | int | torch.device):
        raise DeviceError(refusal)
    try:
        device = torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
    except RuntimeError as error:
        raise DeviceError(refusal) from error
    there = {
        "cpu": True,
        "mps": _has_mps(),
        "cuda": (device.index or 0) < torch.cuda.device_count(),
    }
    if device.type not in there:
        raise DeviceError(refusal)
    if not there[device.type]:
        raise DeviceError(
            f"device {text}: torch finds none here; leave the device out to take the best one"
        )
    return device


def pick_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """A precision by its name, or the one to use on a device: half on CUDA, else single.

    name: torch's own types are taken, too.
    On MPS, half precision is reported to give black frames; CPUs are slow at it.
    Raises DeviceError for any other.
    """
    if name is None:
        return torch.float16 if device.type == "cuda" else torch.float32
    return as_dtype(name)


def as_dtype(value: object) -> torch.dtype:
    """A precision by its name, or torch's own type. Raises DeviceError for any other."""
    name = str(value).removeprefix("torch.") if isinstance(value, str | torch.dtype) else ""
    if name not in DTYPES:
        raise DeviceError(f"dtype {shown(value)}: must be one of {', '.join(DTYPES)}")
    return DTYPES[name]


def with_index(device: torch.device) -> torch.device:
    """The device that "cuda" stands for now; any other as it is."""
    if str(device) != "cuda":
        return device
    return torch.device("cuda", torch.cuda.current_device())


def own_precision(device: torch.device) -> AbstractContextManager[object]:
    """Within it networks compute in the precision of their weights, whatever `torch.autocast` a
    program has switched on around its call."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
