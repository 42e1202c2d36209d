"""A step of the UNet recorded as a CUDA graph and played again: no gaps between its kernels."""

from typing import NamedTuple

import torch
from torch import Tensor

from kinora.runtime.unet import PreparedUNet, Run
from kinora.types import Answers, Condition, Latents, PerClip

__all__ = ["Recorded"]

Key = tuple[int, bool]
"""Which condition; whether inner blocks are computed."""


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    """Where a step reads from."""
    outputs: Run
    """Where it writes to."""


class Recorded:
    """A prepared UNet on a CUDA GPU, each kind of call of which is recorded at its second time.

    For one clip or batch: what was computed once a clip becomes part of the recording. The first
    call of each kind runs as it is, compiles and measures what is to be, and fills caches.
    """

    def __init__(self, unet: PreparedUNet) -> None:
        self.unet = unet
        self.met: dict[Key, Condition] = {}
        """Conditions, kept so that no other gets the id of one."""
        self.recordings: dict[Key, _Recording] = {}

    def __call__(self, x: Latents, c_noise: PerClip, condition: Condition, /) -> Answers:
        return self.run(x, c_noise, condition).answers

    @torch.no_grad()
    def run(
        self, x: Latents, c_noise: PerClip, condition: Condition, inner: Tensor | None = None
    ) -> Run:
        """As `PreparedUNet.run`."""
        key = id(condition), inner is None
        given = (x, c_noise) if inner is None else (x, c_noise, inner)
        if key not in self.met:
            self.met[key] = condition
            return self.unet.run(x, c_noise, condition, inner)
        if key not in self.recordings:
            self.recordings[key] = self._record(given, condition)
        recording = self.recordings[key]
        for place, tensor in zip(recording.inputs, given, strict=True):
            place.copy_(tensor)
        recording.graph.replay()
        return Run(*(tensor.clone() for tensor in recording.outputs))

    def _record(self, given: tuple[Tensor, ...], condition: Condition) -> _Recording:
        inputs = tuple(tensor.clone() for tensor in given)
        x, c_noise, *inner = inputs
        graph = torch.cuda.CUDAGraph()
        torch.cuda.empty_cache()  # a recording has memory of its own
        with torch.cuda.graph(graph):
            outputs = self.unet.run(x, c_noise, condition, *inner)
        return _Recording(graph, inputs, outputs)
