"""Where a run computes, and in which precision."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from kinora.errors import DeviceError

__all__ = ["mixed_precision", "pick_device"]


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" takes a GPU where there is one.

    Raises DeviceError when it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).split("\n", 1)[0]
        raise DeviceError(f"device {name!r} can't be used here ({first}); try cpu") from error
    return device


def mixed_precision(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """bf16 autocast on a GPU; plain fp32 elsewhere, where bf16 is slower."""
    if device.type != "cuda":
        return nullcontext
    return partial(torch.autocast, "cuda", torch.bfloat16)
