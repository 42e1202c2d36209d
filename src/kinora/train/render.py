"""Rendering made-up clips, a shard at a time: in processes of their own, or on the GPU."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial

import torch
from torch import Tensor

from kinora.pixels import to_bytes
from kinora.synthetic import SceneConfig, make_clips
from kinora.train.chance import seed_of
from kinora.train.shards import SHARD

__all__ = ["rendered"]

BATCH = 16
"""Clips rendered at once, for memory's sake."""


def rendered(
    scenes: SceneConfig,
    purpose: str,
    seed: int,
    shards: Sequence[int],
    device: torch.device,
    workers: int,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Shard numbers with frames (uint8 [n, t, 3, h, w]), fps, motion and flow of their clips.

    A shard depends on purpose, seed and its number alone. Closing the iterator stops the work.
    """
    make = partial(_render, scenes, purpose, seed, str(device))
    if device.type != "cpu" or workers < 2 or len(shards) < 2:
        yield from _each(make, shards)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(shards)), context, _alone)
    try:
        # Only a few run ahead, so that finished ones don't pile up in memory.
        ahead: deque[tuple[int, Future[dict[str, Tensor]]]] = deque()
        for k in shards:
            ahead.append((k, pool.submit(make, k)))
            if len(ahead) > workers:
                done, future = ahead.popleft()
                yield done, future.result()
        for done, future in ahead:
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _each(
    make: Callable[[int], dict[str, Tensor]], shards: Sequence[int]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    for k in shards:
        yield k, make(k)


def _alone() -> None:
    """A worker has one thread, and leaves Ctrl-C to the process that started it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _render(scenes: SceneConfig, purpose: str, seed: int, device: str, k: int) -> dict[str, Tensor]:
    parts: list[tuple[Tensor, ...]] = []
    for piece in range(SHARD // BATCH):
        clips = make_clips(scenes, BATCH, seed_of(purpose, seed, k, piece), device)
        parts.append((to_bytes(clips.frames), clips.fps, clips.motion, clips.flow))
    names = ("frames", "fps", "motion", "flow")
    return {n: torch.cat(p).cpu() for n, p in zip(names, zip(*parts, strict=True), strict=True)}
