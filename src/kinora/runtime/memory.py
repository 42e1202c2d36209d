"""How much memory there is, and how much is free."""

import ctypes
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, cast

import psutil
import torch

__all__ = ["free_memory", "limited", "release", "trim"]

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its limits."""


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device now; what torch holds in reserve counts as free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + reserve
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return min(psutil.virtual_memory().available, _container_limit())


def _container_limit() -> int:
    """What a container may still take; as much as one likes where there is no limit."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        return 2**63 - 1 if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return 2**63 - 1


LOCK = Lock()
LIMITS: dict[torch.device, list[float]] = {}
"""Of those within `limited`, the shares of a GPU's memory."""
OWN: dict[torch.device, float] = {}
"""The share that a program had set itself."""


@contextmanager
def limited(device: torch.device, most: int | None) -> Generator[None, None, None]:
    """Within it, torch refuses to hold more than so many bytes on a CUDA GPU.

    Around a call, never around a `yield`: it is a setting of the whole process, which is restored
    afterwards. Where threads are within it at a time, the largest limit holds. Other devices have
    no such limit.
    """
    if most is None or device.type != "cuda":
        yield
        return
    if cast(int | None, device.index) is None:
        device = torch.device("cuda", torch.cuda.current_device())
    share = most / torch.cuda.mem_get_info(device)[1]
    with LOCK:
        if not LIMITS.get(device):
            OWN[device] = _share(device)
        LIMITS.setdefault(device, []).append(share)
        _limit(device)
    try:
        yield
    finally:
        with LOCK:
            LIMITS[device].remove(share)
            _limit(device)


def _limit(device: torch.device) -> None:
    most = max(LIMITS[device], default=1.0)
    torch.cuda.set_per_process_memory_fraction(min(OWN[device], most), device)


def _share(device: torch.device) -> float:
    read = getattr(cast(Any, torch.cuda), "get_per_process_memory_fraction", None)
    return 1.0 if read is None else read(device)  # torch before 2.9 does not tell


def release(device: torch.device) -> None:
    """Hand memory that torch holds in reserve back to the system."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        trim()


def trim() -> None:
    """Hand memory that was freed back to the system: glibc keeps what lies between things that are
    in use, 0.4 GiB once all weights of SVD's UNet were packed."""
    if sys.platform == "linux":
        release = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if release is not None:
            release(0)
