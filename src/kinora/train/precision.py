"""In which precision networks are trained."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["mixed_precision"]


def mixed_precision(device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """A context for calls of a network: bf16 where that is quicker, on CUDA; else plain fp32."""
    if device.type != "cuda":
        return nullcontext
    return lambda: torch.autocast("cuda", torch.bfloat16)
