"""The vocabulary of shapes, and the few things that networks and samplers say to each other.

Video tensors are `b t c h w`: clips, frames, channels, rows, columns. Only the networks fold time
into the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from kinora.arguments import expect, shown
from kinora.errors import RequestError

__all__ = [
    "Answers",
    "Condition",
    "Denoiser",
    "Frames",
    "Images",
    "Latents",
    "Network",
    "PerClip",
    "Step",
    "expect_tensor",
    "per_clip",
]

Latents = Float[Tensor, "b t c h w"]
"""Latents of clips; unit variance in the sampler (that is, already times the VAE's scale)."""

Answers = Float[Tensor, "rb t c h w"]
"""What a network says of latents under one condition each, or under r."""

Frames = Float[Tensor, "b t 3 height width"]
"""Pixels of clips in [-1, 1]."""

Images = Float[Tensor, "b 3 height width"]
"""Pixels of single pictures in [-1, 1]."""

PerClip = Float[Tensor, " b"]
"""One number a clip: a noise level, a c_noise."""


def per_clip(values: Sequence[int | float]) -> PerClip:
    """Numbers, one a clip, in fp32 on the CPU."""
    return torch.tensor(values, dtype=torch.float32, device="cpu")


class Condition(NamedTuple):
    """What a network is told besides noise: the photo, twice, and three numbers.

    image: the photo's latent, **not** scaled, one for all frames (f = 1) or one a frame (f = t).
    context: the photo's embedding from the image encoder, one token.
    vector: (fps − 1, motion, noise_aug) as they are; the network makes sinusoids of them.
    """

    image: Float[Tensor, "b f c h w"]
    context: Float[Tensor, "b n d"]
    vector: Float[Tensor, "b k"]

    def unconditional(self) -> "Condition":
        """The condition for classifier-free guidance: no photo, the same three numbers."""
        return self._replace(
            image=torch.zeros_like(self.image), context=torch.zeros_like(self.context)
        )


@runtime_checkable
class Network(Protocol):
    """A raw network F(c_in·x; c_noise, condition), before preconditioning.

    A condition of r times as many clips asks for x under r conditions, the answers stacked: the
    halves of guidance share their latents.
    """

    def __call__(self, x: Latents, c_noise: PerClip, condition: Condition, /) -> Answers: ...


@runtime_checkable
class Denoiser(Protocol):
    """D(x; σ): the clean latents expected behind noisy ones; all that a sampler ever sees."""

    def __call__(self, x: Latents, sigma: PerClip, /) -> Latents: ...


class Step(NamedTuple):
    """What a sampler yields after each step."""

    sigma: float
    """Noise level that x has now."""
    x: Latents
    """Noisy latents at `sigma`; the result when sigma is 0."""
    denoised: Latents
    """The clean estimate that this step followed."""


def expect_tensor(name: str, value: object, axes: str) -> None:
    """Raise RequestError unless a value is a tensor of floats with these axes, such as "b t"."""
    meaning = f"a tensor of floats [{axes.replace(' ', ', ')}]"
    tensor = expect(name, value, Tensor, meaning)
    if tensor.is_meta or not tensor.is_floating_point() or tensor.ndim != len(axes.split()):
        raise RequestError(f"{name} {shown(tensor)} of {tensor.dtype}: must be {meaning}")
