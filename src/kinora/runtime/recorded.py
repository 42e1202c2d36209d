"""A step of the UNet recorded as a CUDA graph and played again: no gaps between its kernels."""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kinora.errors import KinoraWarning
from kinora.runtime.unet import Clip, PreparedUNet, Run
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
    call of each kind runs as it is, compiles and measures what is to be, and fills caches. Where
    recording fails, all calls go on like the first.
    """

    def __init__(self, unet: PreparedUNet) -> None:
        self.unet = unet
        self.device = unet.conv_in.weight.device
        self.kept: dict[Key, Clip] = {}
        """What recordings read from, the conditions among it, so that no other gets an id."""
        self.recordings: dict[Key, _Recording] = {}
        self.pool: Any = None
        """The memory that all recordings share: no two are played at a time."""
        self.possible = True

    def __call__(self, x: Latents, c_noise: PerClip, condition: Condition, /) -> Answers:
        return self.run(x, c_noise, condition).answers

    @torch.no_grad()
    def run(
        self, x: Latents, c_noise: PerClip, condition: Condition, inner: Tensor | None = None
    ) -> Run:
        """As `PreparedUNet.run`."""
        key = id(condition), inner is None
        given = (x, c_noise) if inner is None else (x, c_noise, inner)
        if key in self.kept and key not in self.recordings and self.possible:
            self._record(key, given)
        if key not in self.recordings:
            made = self.unet.run(x, c_noise, condition, inner)
            self.kept[key] = self.unet.begin(condition, x.shape[1])
            return made
        recording = self.recordings[key]
        for place, tensor in zip(recording.inputs, given, strict=True):
            place.copy_(tensor)
        recording.graph.replay()
        return Run(*(tensor.clone() for tensor in recording.outputs))

    def _record(self, key: Key, given: tuple[Tensor, ...]) -> None:
        clip = self.kept[key]
        self.unet.begin(clip.condition, clip.frames, clip)
        inputs = tuple(tensor.clone() for tensor in given)
        x, c_noise, *inner = inputs
        graph = torch.cuda.CUDAGraph()
        torch.cuda.empty_cache()  # recordings have memory of their own
        with torch.cuda.device(self.device):
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            try:
                with torch.cuda.graph(graph, pool=self.pool):
                    outputs = self.unet.run(x, c_noise, clip.condition, *inner)
            except RuntimeError as error:
                self.possible = False
                reason = str(error).strip().split("\n", 1)[0]
                warnings.warn(
                    f"steps are not recorded as CUDA graphs: {reason}", KinoraWarning, stacklevel=2
                )
                return
        self.recordings[key] = _Recording(graph, inputs, outputs)
