"""A UNet that is larger than its device: each block's weights come while the one before works."""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kinora.models import VideoUNet
from kinora.runtime.unet import PreparedUNet
from kinora.weights.load import Source, put

__all__ = ["Pinned", "passing", "pinned_bytes", "streamed"]

STAYING = ("embedding.", "context.", "frame_embedding.")
"""Small layers of blocks, asked of all of them at the beginning of a step or of a clip."""


def passing(block: nn.Module) -> list[nn.Parameter]:
    """The parameters of a block that come and go with it."""
    return [p for name, p in block.named_parameters() if not any(s in name for s in STAYING)]


class Pinned:
    """Copies of weights in the host's memory that a GPU can fetch by itself, for clip after clip.

    They take as much of the host's memory as `pinned_bytes` counts, which nothing can be swapped
    out of, until they are let go of.
    """

    def __init__(self, pin: Callable[[Tensor], Tensor] = Tensor.pin_memory) -> None:
        self.pin = pin
        self.copies: dict[str, Tensor] = {}

    @property
    def held(self) -> int:
        return sum(pinned_bytes(copy.nbytes) for copy in self.copies.values())

    def copy(self, name: str, source: Source) -> Tensor:
        """A tensor's copy, which is made at first."""
        if name not in self.copies:
            self.copies[name] = self.pin(source.prepared(name, torch.device("cpu")))
        return self.copies[name]

    def clear(self) -> None:
        if self.copies:
            self.copies.clear()
            if torch.cuda.is_initialized():
                torch._C._host_emptyCache()  # pyright: ignore


def pinned_bytes(count: int) -> int:
    """Bytes of the host's memory that torch takes to pin so many: a power of two."""
    return 1 << (count - 1).bit_length() if count else 0


@contextmanager
def streamed(
    prepared: PreparedUNet, unet: VideoUNet, source: Source, pinned: Pinned
) -> Generator[None, None, None]:
    """Within it the prepared UNet can be called, and at most two of its blocks hold weights.

    unet: the network that was prepared, by whose names the source knows the parameters.
    pinned: what a GPU's blocks come from; it may hold them from an earlier clip.
    Raises CheckpointError when weights turn out to be damaged.
    """
    names = {parameter: f"unet.{name}" for name, parameter in unet.named_parameters()}
    blocks = [passing(block) for block in prepared.blocks()]
    moving = {parameter for parameters in blocks for parameter in parameters}
    for parameter, name in names.items():
        if parameter in moving:
            source.take(name, parameter)
        elif parameter.is_meta:
            put(parameter, source.prepared(name))
    with ThreadPoolExecutor(1) as thread:
        stream = _Stream(blocks, names, source, pinned, thread)
        hooks = [
            hook for i, block in enumerate(prepared.blocks()) for hook in stream.hook(i, block)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


class _Load(NamedTuple):
    """A block's weights, on their way to the device."""

    block: int
    tensors: Future[tuple[list[Tensor], torch.Event | None]]


class _Stream:
    """The blocks' weights, in turn: from pinned memory to a GPU, or from the file to the CPU."""

    def __init__(
        self,
        blocks: list[list[nn.Parameter]],
        names: dict[nn.Parameter, str],
        source: Source,
        pinned: Pinned,
        thread: ThreadPoolExecutor,
    ) -> None:
        self.blocks, self.names, self.source, self.thread = blocks, names, source, thread
        self.pinned = pinned
        cuda = source.device.type == "cuda"
        self.side = torch.cuda.Stream(source.device) if cuda else None
        self.done: dict[int, torch.Event] = {}
        """When the device has finished with a block that was left."""
        self.next: _Load | None = None

    def hook(self, index: int, block: nn.Module) -> list[Any]:
        """Let a block's weights come before it works and go after that."""
        return [
            block.register_forward_pre_hook(lambda module, given: self.arrive(index)),
            block.register_forward_hook(lambda module, given, made: self.leave(index)),
        ]

    def arrive(self, index: int) -> None:
        """Wait for a block's weights, and have the next block's come."""
        load = self.next if self.next and self.next.block == index else self.load(index)
        tensors, event = load.tensors.result()
        if event is not None:
            torch.cuda.current_stream(self.source.device).wait_event(event)
        for parameter, tensor in zip(self.blocks[index], tensors, strict=True):
            if event is not None:
                tensor.record_stream(torch.cuda.current_stream(self.source.device))
            put(parameter, tensor)
        self.next = self.load((index + 1) % len(self.blocks))

    def leave(self, index: int) -> None:
        if self.side is not None:
            self.done[index] = torch.cuda.current_stream(self.source.device).record_event()
        for parameter in self.blocks[index]:
            self.source.take(self.names[parameter], parameter)

    def load(self, index: int) -> _Load:
        return _Load(index, self.thread.submit(partial(self.fetch, index)))

    def fetch(self, index: int) -> tuple[list[Tensor], torch.Event | None]:
        """In the background."""
        parameters = self.blocks[index]
        if self.side is None:
            return [self.source.prepared(self.names[p]) for p in parameters], None
        host = [self.pinned.copy(self.names[p], self.source) for p in parameters]
        before = self.done.pop((index - 2) % len(self.blocks), None)
        if before is not None:  # or the copies would run ahead of the work, and fill the device
            before.synchronize()
        with torch.cuda.stream(self.side):
            tensors = [t.to(self.source.device, non_blocking=True) for t in host]
            return tensors, self.side.record_event()
