"""Self-attention by the quickest of torch's kernels, found by trying them."""

import math
import time
import warnings
from functools import cache
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from kinora.errors import KinoraWarning

__all__ = ["attend", "register_attention"]

CANDIDATES: Final = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
)
TRIES: Final = 3
CALLS: Final = 5
"""In one try, so that starting them matters as much as it does between other kernels."""
VALUES: Final = 1 << 22
"""Of queries that are tried with at most: they fill a GPU, and a larger batch takes as long in
parts."""


class Kind(NamedTuple):
    """Of tensors that one kernel is the quickest for."""

    batch: int
    tokens: int
    heads: int
    width: int
    """Channels of a head."""
    dtype: torch.dtype
    device: torch.device


RANKS: dict[Kind, list[SDPBackend]] = {}
"""Kernels by the time that they take, and last the one that takes everything; those that failed are
no longer there. Between pixels there are thousands of tokens in a sequence, between frames dozens:
kernels that win at the one lose at the other."""


def attend(
    q: Float[Tensor, "b n h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"]
) -> Float[Tensor, "b n h d"]:
    """Attention of h heads over n tokens. On a CUDA GPU by the kernel that is quickest there, or
    the next one where that fails; other devices have one each."""
    if q.device.type != "cuda":
        return _attention(q, k, v)
    if torch.compiler.is_compiling():
        return torch.ops.kinora.attend(q, k, v)
    return _attend(q, k, v)


@cache
def register_attention() -> None:
    """Let torch's compiler leave attention to be chosen as it runs, which it calls as it is."""
    attention = torch.library.custom_op("kinora::attend", _compiled_attend, mutates_args=())
    attention.register_fake(_fake_attend)


def _compiled_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return _attend(q, k, v).contiguous()


def _fake_attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, n, h, d = q.shape
    kind = Kind(min(b, math.ceil(VALUES / (n * h * d))), n, h, d, q.dtype, q.device)
    ranks = _ranks(kind)
    while True:
        backend = ranks[0]
        try:
            with sdpa_kernel(backend):
                return _attention(q, k, v)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if len(ranks) == 1:
                raise
            reason = str(error).strip().split("\n", 1)[0]
        ranks.remove(backend)
        warnings.warn(
            f"attention over {n} tokens: torch's {backend.name} failed ({reason}); "
            f"{ranks[0].name} is used from now on",
            KinoraWarning,
            stacklevel=2,
        )


def _ranks(kind: Kind) -> list[SDPBackend]:
    if kind not in RANKS:
        # In fp32 there is one alone that doesn't make all of the matrix.
        several = kind.dtype != torch.float32
        candidates = CANDIDATES if several else (SDPBackend.EFFICIENT_ATTENTION,)
        if torch.cuda.is_current_stream_capturing():  # where nothing can be tried
            return [*candidates, SDPBackend.MATH]
        try:
            RANKS[kind] = [*_ranked(kind, candidates), SDPBackend.MATH]
        except torch.OutOfMemoryError:
            return [*candidates, SDPBackend.MATH]
    return RANKS[kind]


def _ranked(kind: Kind, candidates: tuple[SDPBackend, ...]) -> list[SDPBackend]:
    """Those that work, the quickest first. Nobody's random numbers change by it."""
    with torch.random.fork_rng(devices=[kind.device] if kind.device.type == "cuda" else []):
        sample = torch.randn(kind[:4], dtype=kind.dtype, device=kind.device)
        tried = [(_seconds(backend, sample), backend) for backend in candidates]
    working = sorted((s, i) for i, (s, _) in enumerate(tried) if s is not None)
    return [candidates[i] for _, i in working]


def _seconds(backend: SDPBackend, sample: Tensor) -> float | None:
    """The best of some tries; None when it doesn't work."""
    best = float("inf")
    try:
        with sdpa_kernel(backend), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of those that don't work here
            for _ in range(TRIES + 1):
                _finish(sample.device)
                start = time.perf_counter()
                for _ in range(CALLS):
                    _attention(sample, sample, sample)
                _finish(sample.device)
                best = min(best, time.perf_counter() - start)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return None
    return best


def _finish(device: torch.device) -> None:
    """Wait until all that was started is done."""
    torch.cuda.synchronize(device)
