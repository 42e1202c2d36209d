"""Residual blocks in space and in time."""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ResBlock", "SpaceTimeResBlock", "across_time", "zero_"]


def zero_(layer: nn.Linear | nn.Conv2d) -> None:
    """Start a layer at zero, so that the residual block that it ends starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def across_time(
    block: Callable[[Tensor], Tensor], x: Float[Tensor, "bt c h w"], frames: int
) -> Float[Tensor, "bt d h w"]:
    """Let a block see frames × pixels in place of rows × columns.

    In the channels-last memory format neither rearrangement copies.
    """
    h = x.shape[2]
    x = rearrange(x, "(b t) c h w -> b c t (h w)", t=frames)
    return rearrange(block(x), "b c t (h w) -> (b t) c h w", h=h)


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, on a residual stream; in between, an embedding is added.

    One class serves space (kernel 3×3 over rows × columns) and time (3×1 over frames × pixels,
    which is what a 3×1×1 convolution over video is, but quicker).
    (He et al. 2016; the embedding as in Ho et al. 2020)
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        groups: int,
        eps: float,
        kernel: tuple[int, int] = (3, 3),
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.norm1 = nn.GroupNorm(groups, channels_in, eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, kernel, padding=padding)
        self.embedding = nn.Linear(embedding_dim, channels_out) if embedding_dim else None
        self.norm2 = nn.GroupNorm(groups, channels_out, eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, kernel, padding=padding)
        self.skip = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(
        self, x: Float[Tensor, "n c y x"], embedding: Float[Tensor, "n e"] | None = None
    ) -> Float[Tensor, "n d y x"]:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.embedding is not None:
            h = h + self.embedding(embedding)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.skip is None else self.skip(x)) + h


class SpaceTimeResBlock(nn.Module):
    """A residual block over each frame, then one along time, then a blend of the two.

    eps: of the norms in space and of those in time.
    mix: initial value of the blend's raw weight.
    sign: the share of time is sigmoid(sign · mix). In the UNet mix weighs space (−1), in the
        VAE's decoder it weighs time (+1).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        groups: int,
        eps: tuple[float, float],
        mix: float,
        sign: int,
        embedding_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.space = ResBlock(
            channels_in, channels_out, groups=groups, eps=eps[0], embedding_dim=embedding_dim
        )
        self.time = ResBlock(
            channels_out,
            channels_out,
            groups=groups,
            eps=eps[1],
            kernel=(3, 1),
            embedding_dim=embedding_dim,
        )
        self.mix = nn.Parameter(torch.full((1,), mix))
        self.sign = sign
        zero_(self.time.conv2)

    def forward(
        self,
        x: Float[Tensor, "bt c h w"],
        frames: int,
        embedding: Float[Tensor, "b e"] | None = None,
        skip: Float[Tensor, "bt s h w"] | None = None,
    ) -> Float[Tensor, "bt d h w"]:
        """skip: more channels, which follow those of x."""
        x = x if skip is None else torch.cat([x, skip], dim=1)
        each = None if embedding is None else embedding.repeat_interleave(frames, dim=0)
        space = self.space(x, each)
        time = across_time(lambda y: self.time(y, embedding), space, frames)
        return torch.lerp(space, time, (self.sign * self.mix).sigmoid().to(space.dtype))
