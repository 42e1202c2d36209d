"""What a running pipeline tells whoever iterates over it."""

from typing import NamedTuple

from kinora.clip import Clip
from kinora.request import Plan
from kinora.runtime import MemoryPlan
from kinora.types import Latents

__all__ = ["Decoded", "Done", "Encoded", "Event", "Planned", "Sampled"]


class Planned(NamedTuple):
    """Memory was counted, which is left out where there is plenty."""

    memory: MemoryPlan
    """What is done to stay within it."""


class Encoded(NamedTuple):
    """The photos have been read and encoded."""

    plans: tuple[Plan, ...]
    """What the requests came to: every field filled in, the seeds drawn."""


class Sampled(NamedTuple):
    """A step of the sampler is done."""

    step: int
    """From 1 to `steps`."""
    steps: int
    denoised: Latents
    """The current clean estimate; `Pipeline.preview` makes pictures of it."""


class Decoded(NamedTuple):
    """Some more frames are decoded."""

    done: int
    """Frames of each clip decoded so far."""
    frames: int


class Done(NamedTuple):
    """The clips, in the order of the requests."""

    clips: tuple[Clip, ...]


Event = Planned | Encoded | Sampled | Decoded | Done
