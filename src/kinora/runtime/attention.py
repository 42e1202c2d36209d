"""The quickest of torch's kernels for attention, found by trying them."""

import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["quickest_attention"]

CANDIDATES: Final = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
TRIES: Final = 3


@contextmanager
def quickest_attention(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> Generator[None, None, None]:
    """Within it, attention on a CUDA GPU uses what is quickest for tensors of this shape.

    shape: batch, heads, tokens, channels of a head; the largest that is to come. Other devices
    have one kernel each. What fails, or doesn't take other shapes, is left to the next one.
    """
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(list(_ranked(shape, dtype, device)), set_priority=True):
        yield


@lru_cache
def _ranked(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[SDPBackend, ...]:
    """Kernels by the time that they take, and last the one that takes everything."""
    # A product of matrices as large as the batch would be takes as long in parts.
    sample = torch.randn((min(shape[0], 8), *shape[1:]), dtype=dtype, device=device)
    # In fp32 there is one alone that doesn't make all of the matrix.
    candidates = CANDIDATES if dtype != torch.float32 else (SDPBackend.EFFICIENT_ATTENTION,)
    tried = [(_seconds(backend, sample), backend) for backend in candidates]
    working = sorted((s, i) for i, (s, _) in enumerate(tried) if s is not None)
    return (*(candidates[i] for _, i in working), SDPBackend.MATH)


def _seconds(backend: SDPBackend, sample: torch.Tensor) -> float | None:
    """The best of some tries; None when it doesn't work."""
    best = float("inf")
    try:
        with sdpa_kernel(backend), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of those that don't work here
            for _ in range(TRIES + 1):
                torch.cuda.synchronize(sample.device)
                start = time.perf_counter()
                F.scaled_dot_product_attention(sample, sample, sample)
                torch.cuda.synchronize(sample.device)
                best = min(best, time.perf_counter() - start)
    except RuntimeError:
        return None
    return best
