"""The autoencoder: a 2D encoder, and a decoder that may also look along time."""

from collections.abc import Callable
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kinora.config import VAEConfig
from kinora.models.attention import Attention
from kinora.models.resnet import ResBlock, SpaceTimeResBlock, across_time
from kinora.types import Frames, Images, Latents

__all__ = ["Decoder", "Encoder", "Level", "VideoAutoencoder"]

SPACE_EPS = 1e-6
TIME_EPS = 1e-5

Block = ResBlock | SpaceTimeResBlock
MakeBlock = Callable[[int, int], Block]


def run(block: nn.Module, x: Tensor, frames: int) -> Tensor:
    """Call a block of either kind; only one of them looks at the other frames."""
    return block(x, frames) if isinstance(block, SpaceTimeResBlock) else block(x)


class AttentionBlock(nn.Module):
    """Every pixel of a frame attends to all others, with one head."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, SPACE_EPS)
        self.attention = Attention(channels, heads=1, bias=True)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        h = x.shape[2]
        tokens = rearrange(self.norm(x), "n c h w -> n (h w) c")
        return x + rearrange(self.attention(tokens), "n (h w) c -> n c h w", h=h)


class Middle(nn.Module):
    """The lowest resolution: two residual blocks with attention between them."""

    def __init__(self, channels: int, groups: int, make: MakeBlock) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([make(channels, channels), make(channels, channels)])
        self.attention = AttentionBlock(channels, groups)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        x = self.attention(run(self.resnets[0], x, frames))
        return run(self.resnets[1], x, frames)


class Level(nn.Module):
    """The residual blocks of one resolution, and a change of size or none."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(blocks)
        self.downsample: nn.Conv2d | None = None
        self.upsample: nn.Conv2d | None = None

    def forward(self, x: Tensor, frames: int) -> Tensor:
        for block in self.resnets:
            x = run(block, x, frames)
        if self.downsample is not None:
            # The published weights were trained with padding on the right and below only.
            x = self.downsample(F.pad(x, (0, 1, 0, 1)))
        if self.upsample is not None:
            x = self.upsample(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class Encoder(nn.Module):
    """Pictures to the mean and log variance of their latents. (Rombach et al. 2022)"""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels, groups = config.channels, config.norm_groups

        def make(a: int, b: int) -> ResBlock:
            return ResBlock(a, b, groups=groups, eps=SPACE_EPS)

        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        for before, width in zip((channels[0], *channels), channels, strict=False):
            widths = pairwise([before] + [width] * config.blocks)
            self.down.append(Level([make(*pair) for pair in widths]))
        for level, width in zip(list(self.down)[:-1], channels, strict=False):
            level.downsample = nn.Conv2d(width, width, 3, stride=2)
        self.middle = Middle(channels[-1], groups, make)
        self.norm_out = nn.GroupNorm(groups, channels[-1], SPACE_EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, images: Images) -> Float[Tensor, "b m h w"]:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x, frames=1)
        x = self.middle(x, frames=1)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Latents to frames; the temporal one sees the whole clip that it is given.

    (Blattmann et al. 2023, "Align your Latents", section 3.1.2)
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels, groups = config.channels[::-1], config.norm_groups

        def frame_block(a: int, b: int) -> ResBlock:
            return ResBlock(a, b, groups=groups, eps=SPACE_EPS)

        def video_block(a: int, b: int) -> SpaceTimeResBlock:
            eps = (SPACE_EPS, TIME_EPS)
            return SpaceTimeResBlock(a, b, groups=groups, eps=eps, mix=0.0, sign=1)

        make: MakeBlock = video_block if config.temporal_decoder else frame_block
        self.conv_in = nn.Conv2d(config.latent_channels, channels[0], 3, padding=1)
        self.middle = Middle(channels[0], groups, make)
        self.up = nn.ModuleList()
        for before, width in zip((channels[0], *channels), channels, strict=False):
            widths = pairwise([before] + [width] * (config.blocks + 1))
            self.up.append(Level([make(*pair) for pair in widths]))
        for level, width in zip(list(self.up)[:-1], channels, strict=False):
            level.upsample = nn.Conv2d(width, width, 3, padding=1)
        self.norm_out = nn.GroupNorm(groups, channels[-1], SPACE_EPS)
        self.conv_out = nn.Conv2d(channels[-1], 3, 3, padding=1)
        self.time_conv = (
            nn.Conv2d(3, 3, (3, 1), padding=(1, 0)) if config.temporal_decoder else None
        )

    def forward(self, x: Float[Tensor, "bt c h w"], frames: int) -> Float[Tensor, "bt 3 y x"]:
        x = self.middle(self.conv_in(x), frames)
        for level in self.up:
            x = level(x, frames)
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x if self.time_conv is None else across_time(self.time_conv, x, frames)


class VideoAutoencoder(nn.Module):
    """Pictures to latents and clips of latents to frames. Latents here are not scaled."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        latent = config.latent_channels
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = None if config.temporal_decoder else nn.Conv2d(latent, latent, 1)
        self.decoder = Decoder(config)

    def encode(self, images: Images) -> Float[Tensor, "b m h w"]:
        """The posterior of each picture's latent: mean and log variance, stacked on channels.

        Sides must be multiples of the VAE's factor. Computes in the encoder's precision.
        """
        x = images.to(self.quant_conv.weight.dtype, memory_format=torch.channels_last)
        return self.quant_conv(self.encoder(x))

    def decode(self, latents: Latents) -> Frames:
        """The frames of whole clips; not clamped. Computes in the decoder's precision."""
        frames = latents.shape[1]
        # Channels last: the blocks in time then see views, not copies.
        x = rearrange(latents, "b t c h w -> (b t) c h w").to(
            self.decoder.conv_in.weight.dtype, memory_format=torch.channels_last
        )
        if self.post_quant_conv is not None:
            x = self.post_quant_conv(x)
        return rearrange(self.decoder(x, frames), "(b t) c h w -> b t c h w", t=frames)
