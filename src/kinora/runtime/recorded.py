"""A step of the UNet recorded as a CUDA graph and played again: no gaps between its kernels."""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kinora.errors import KinoraWarning
from kinora.runtime.unet import Clip, PreparedUNet, Run
from kinora.types import Answers, Condition, Latents, PerClip

__all__ = ["Recorded"]

Key = tuple[int, bool, bool]
"""Which condition; whether inner blocks are computed; whether what they gave is wanted."""


class _Recording(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    """Where a step reads from."""
    answers: Tensor
    """Where it writes to."""
    inner: Tensor | None
    """The same of what inner blocks gave, where that is wanted."""


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
        self.stream: torch.cuda.Stream | None = None
        """Where they are recorded. torch's own is one a process, of the first device that was
        recorded on."""
        self.possible = True

    def __call__(self, x: Latents, c_noise: PerClip, condition: Condition, /) -> Answers:
        return self._play((x, c_noise), condition, (id(condition), True, False))[0]

    def run(
        self, x: Latents, c_noise: PerClip, condition: Condition, inner: Tensor | None = None
    ) -> Run:
        """As `PreparedUNet.run`."""
        if inner is not None:
            given = x, c_noise, inner
            return Run(self._play(given, condition, (id(condition), False, False))[0], inner)
        answers, made = self._play((x, c_noise), condition, (id(condition), True, True))
        assert made is not None, "inner blocks were computed"
        return Run(answers, made)

    @torch.no_grad()
    def _play(
        self, given: tuple[Tensor, ...], condition: Condition, key: Key
    ) -> tuple[Tensor, Tensor | None]:
        """Answers, and what inner blocks gave where the key asks for it.

        Copies of both, as the next call writes to the same place: of the features 0.3 GB at full
        size, which is why they are not recorded where nobody uses them again.
        """
        if key in self.kept and key not in self.recordings and self.possible:
            self._record(given, key)
        if key not in self.recordings:
            x, c_noise, *inner = given
            made = self.unet.run(x, c_noise, condition, *inner)
            self.kept[key] = self.unet.begin(condition, x.shape[1])
            return made
        recording = self.recordings[key]
        for place, tensor in zip(recording.inputs, given, strict=True):
            place.copy_(tensor)
        recording.graph.replay()
        inner = recording.inner
        return recording.answers.clone(), None if inner is None else inner.clone()

    def _record(self, given: tuple[Tensor, ...], key: Key) -> None:
        clip = self.kept[key]
        self.unet.begin(clip.condition, clip.frames, clip)
        inputs = tuple(tensor.clone() for tensor in given)
        x, c_noise, *inner = inputs
        graph = torch.cuda.CUDAGraph()
        torch.cuda.empty_cache()  # recordings have memory of their own
        with torch.cuda.device(self.device):
            self.pool = self.pool or torch.cuda.graph_pool_handle()
            self.stream = self.stream or torch.cuda.Stream(self.device)
            # What other threads do meanwhile, such as loading weights, is no error then.
            recording = torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            )
            try:
                with recording:
                    answers, features = self.unet.run(x, c_noise, clip.condition, *inner)
                    if not key[2]:
                        features = None  # its memory is free for what is recorded next
            except RuntimeError as error:
                self.possible = False
                reason = str(error).strip().split("\n", 1)[0]
                warnings.warn(
                    f"steps are not recorded as CUDA graphs: {reason}", KinoraWarning, stacklevel=2
                )
                return
        self.recordings[key] = _Recording(graph, inputs, answers, features)
