"""The video UNet of Stable Video Diffusion."""

from itertools import islice, pairwise, zip_longest
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kinora.config import UNetConfig
from kinora.models.attention import SpaceTimeTransformer
from kinora.models.embeddings import Embedding, sinusoid
from kinora.models.resnet import SpaceTimeResBlock, zero_
from kinora.types import Answers, Condition, Latents, PerClip

__all__ = ["DownLevel", "VideoUNet"]

Told = Any
"""What the levels hand on to their blocks, unseen: a tensor, or what prepared blocks want."""


ALL = slice(None)


class DownLevel(nn.Module):
    """The blocks of one resolution on the way down, then a halving or none."""

    def __init__(
        self,
        resnets: list[SpaceTimeResBlock],
        transformers: list[SpaceTimeTransformer],
        downsample: nn.Conv2d | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.transformers = nn.ModuleList(transformers)
        self.downsample = downsample

    def forward(self, x: Tensor, embedding: Told, context: Told, t: int) -> list[Tensor]:
        """Every block's output: what the way up is given again. The last one goes on."""
        outputs = self.first(len(self.resnets), x, embedding, context, t)
        return outputs if self.downsample is None else [*outputs, self.downsample(outputs[-1])]

    def first(self, count: int, x: Tensor, embedding: Told, context: Told, t: int) -> list[Tensor]:
        """The outputs of the first blocks alone."""
        outputs: list[Tensor] = []
        for resnet, transformer in islice(zip_longest(self.resnets, self.transformers), count):
            x = resnet(x, t, embedding)
            x = x if transformer is None else transformer(x, context, t)
            outputs.append(x)
        return outputs


class UpLevel(nn.Module):
    """The blocks of one resolution on the way up, then a doubling or none."""

    def __init__(
        self,
        resnets: list[SpaceTimeResBlock],
        transformers: list[SpaceTimeTransformer],
        upsample: nn.Conv2d | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.transformers = nn.ModuleList(transformers)
        self.upsample = upsample

    def forward(
        self,
        x: Tensor,
        skips: list[Tensor],
        embedding: Told,
        context: Told,
        t: int,
        blocks: slice = ALL,
    ) -> Tensor:
        """skips: outputs of the way down; each block takes the last one off.

        blocks: those to run.
        """
        pairs = list(zip_longest(self.resnets, self.transformers))
        for resnet, transformer in pairs[blocks]:
            x = resnet(x, t, embedding, skips.pop())
            x = x if transformer is None else transformer(x, context, t)
        if self.upsample is not None:
            x = self.upsample(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class Middle(nn.Module):
    """The lowest resolution: two residual blocks with a transformer between them."""

    def __init__(self, resnets: list[SpaceTimeResBlock], transformer: SpaceTimeTransformer) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.transformer = transformer

    def forward(self, x: Tensor, embedding: Told, context: Told, t: int) -> Tensor:
        x = self.resnets[0](x, t, embedding)
        return self.resnets[1](self.transformer(x, context, t), t, embedding)


class VideoUNet(nn.Module):
    """F(x; c_noise, condition): a UNet over frames whose blocks also look along time.

    1,474 million parameters in the published models, which count 50.4 million more: the dead ones
    of cross-attention to a single token (see `Context`).
    (Blattmann et al. 2023, "Stable Video Diffusion", appendix D)
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, dim = config.channels, config.embedding_dim
        self.time_embedding = Embedding(channels[0], dim, dim)
        self.vector_embedding = Embedding(config.vector_ids * config.vector_dim, dim, dim)
        self.conv_in = nn.Conv2d(2 * config.latent_channels, channels[0], 3, padding=1)

        last = len(channels) - 1
        width, skips = channels[0], [channels[0]]
        down: list[DownLevel] = []
        for level, wide in enumerate(channels):
            widths = list(pairwise([width] + [wide] * config.blocks))
            halve = nn.Conv2d(wide, wide, 3, stride=2, padding=1) if level < last else None
            down.append(DownLevel(*self._blocks(level, widths), halve))
            skips += [wide] * (config.blocks + (level < last))
            width = wide

        up: list[UpLevel] = []
        for level, wide in reversed(list(enumerate(channels))):
            befores = [width] + [wide] * config.blocks
            widths = [(before + skips.pop(), wide) for before in befores]
            double = nn.Conv2d(wide, wide, 3, padding=1) if level > 0 else None
            up.append(UpLevel(*self._blocks(level, widths), double))
            width = wide

        self.down = nn.ModuleList(down)
        self.middle = Middle(
            [self._resnet(width, width) for width in channels[-1:] * 2], self._transformer(last)
        )
        self.up = nn.ModuleList(up)
        self.norm_out = nn.GroupNorm(config.norm_groups, channels[0], eps=1e-5)
        self.conv_out = nn.Conv2d(channels[0], config.latent_channels, 3, padding=1)
        zero_(self.conv_out)

    def _resnet(self, width_in: int, width_out: int) -> SpaceTimeResBlock:
        block = SpaceTimeResBlock(
            width_in,
            width_out,
            groups=self.config.norm_groups,
            eps=(1e-5, 1e-5),
            mix=0.5,
            sign=-1,
            embedding_dim=self.config.embedding_dim,
        )
        zero_(block.space.conv2)
        return block

    def _transformer(self, level: int) -> SpaceTimeTransformer:
        config = self.config
        return SpaceTimeTransformer(
            config.channels[level], config.heads[level], config.context_dim, config.norm_groups
        )

    def _blocks(
        self, level: int, widths: list[tuple[int, int]]
    ) -> tuple[list[SpaceTimeResBlock], list[SpaceTimeTransformer]]:
        attention = self.config.attention[level]
        transformers = [self._transformer(level) for _ in widths] if attention else []
        return [self._resnet(*pair) for pair in widths], transformers

    def embed(self, c_noise: PerClip, vector: Tensor) -> Tensor:
        """The embedding that every residual block is given, after its SiLU. [b, embedding_dim]"""
        time = self.time_embedding(sinusoid(c_noise, self.config.channels[0]))
        vectors = sinusoid(vector.flatten(), self.config.vector_dim).view(len(vector), -1)
        return F.silu(time + self.vector_embedding(vectors))

    def forward(self, x: Latents, c_noise: PerClip, condition: Condition) -> Answers:
        """Predict from scaled noisy latents.

        x: c_in · noisy latents. c_noise: ¼ ln σ, one a clip. Where the condition is of more clips,
        both are repeated for it.
        Computes and answers in the precision of the weights.
        """
        t, dtype = x.shape[1], self.conv_in.weight.dtype
        repeats = len(condition.vector) // len(x)
        x, c_noise = x.repeat(repeats, 1, 1, 1, 1), c_noise.repeat(repeats)
        embedding = self.embed(c_noise, condition.vector)
        context = condition.context.to(dtype)
        x = torch.cat([x, condition.image.expand(-1, t, -1, -1, -1)], dim=2).to(dtype)
        # Channels last: blocks in time and transformers then see views, not copies.
        x = rearrange(x, "b t c h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        x = self.trunk(self.conv_in(x), embedding, context, t)
        return rearrange(x, "(b t) c h w -> b t c h w", t=t)

    def trunk(
        self, x: Float[Tensor, "bt c h w"], embedding: Told, context: Told, t: int
    ) -> Float[Tensor, "bt d h w"]:
        """All that follows the first convolution."""
        x, skips = self.inner(x, embedding, context, t)
        return self.outer(x, skips, embedding, context, t)

    def inner(
        self, x: Float[Tensor, "bt c h w"], embedding: Told, context: Told, t: int, left: int = 1
    ) -> tuple[Float[Tensor, "bt d h w"], list[Tensor]]:
        """What the last `left` blocks are given, and the skips that they have yet to take."""
        skips = [x]
        for level in self.down:
            skips += level(skips[-1], embedding, context, t)
        x = self.middle(skips[-1], embedding, context, t)
        for level in self.up[:-1]:
            x = level(x, skips, embedding, context, t)
        return self.up[-1](x, skips, embedding, context, t, slice(-left)), skips

    def outer(
        self,
        x: Float[Tensor, "bt d h w"],
        skips: list[Tensor],
        embedding: Told,
        context: Told,
        t: int,
    ) -> Float[Tensor, "bt c h w"]:
        """The blocks that still have a skip to take, and the last convolution."""
        x = self.up[-1](x, skips, embedding, context, t, slice(-len(skips), None))
        return self.conv_out(F.silu(self.norm_out(x)))
