"""A UNet that is larger than its device: each block's weights come while the one before works."""

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kinora.models import VideoUNet
from kinora.runtime.unet import PreparedUNet
from kinora.weights.load import Source, put

__all__ = ["passing", "streamed"]

STAYING = ("embedding.", "context.", "frame_embedding.")
"""Small layers of blocks, asked of all of them at the beginning of a step or of a clip."""


def passing(block: nn.Module) -> list[nn.Parameter]:
    """The parameters of a block that come and go with it."""
    return [p for name, p in block.named_parameters() if not any(s in name for s in STAYING)]


@contextmanager
def streamed(
    prepared: PreparedUNet, unet: VideoUNet, source: Source
) -> Generator[None, None, None]:
    """Within it the prepared UNet can be called, and at most two of its blocks hold weights.

    unet: the network that was prepared, by whose names the source knows the parameters.
    Raises CheckpointError when weights turn out to be damaged.
    """
    names = {parameter: f"unet.{name}" for name, parameter in unet.named_parameters()}
    blocks = [passing(block) for block in prepared.blocks()]
    moving = {parameter for parameters in blocks for parameter in parameters}
    for parameter, name in names.items():
        if parameter in moving:
            source.take(name, parameter)
        elif parameter.is_meta:
            put(parameter, source.read(name))
    with ThreadPoolExecutor(1) as thread:
        stream = _Stream(blocks, names, source, thread)
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
        thread: ThreadPoolExecutor,
    ) -> None:
        self.blocks, self.names, self.source, self.thread = blocks, names, source, thread
        cuda = source.device.type == "cuda"
        self.side = torch.cuda.Stream(source.device) if cuda else None
        self.done: dict[int, torch.Event] = {}
        """When the device has finished with a block that was left."""
        self.pinned: dict[nn.Parameter, Tensor] = {}
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
            return [self.source.read(self.names[p]) for p in parameters], None
        host = [self.pin(p) for p in parameters]
        before = self.done.pop((index - 2) % len(self.blocks), None)
        if before is not None:  # or the copies would run ahead of the work, and fill the device
            before.synchronize()
        with torch.cuda.stream(self.side):
            tensors = [t.to(self.source.device, non_blocking=True) for t in host]
            return tensors, self.side.record_event()

    def pin(self, parameter: nn.Parameter) -> Tensor:
        """A parameter's values where the GPU can fetch them by itself; kept there."""
        if parameter not in self.pinned:
            values = self.source.read(self.names[parameter], torch.device("cpu"))
            self.pinned[parameter] = values.pin_memory()
        return self.pinned[parameter]
