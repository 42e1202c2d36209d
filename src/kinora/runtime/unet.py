"""The UNet as it runs: what is the same at every step or in both halves of guidance, once."""

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple, cast

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kinora.models import VideoUNet
from kinora.models.attention import SpaceTimeTransformer
from kinora.models.embeddings import sinusoid
from kinora.models.resnet import SpaceTimeResBlock
from kinora.models.unet import DownLevel
from kinora.runtime.blocks import (
    Known,
    Share,
    Shifts,
    space_time_res_block,
    space_time_transformer,
)
from kinora.types import Answers, Condition, Latents, PerClip

__all__ = ["Clip", "PreparedUNet", "Run"]


OUTER = 1
"""Blocks at the end that are computed even where inner ones are reused."""


class Running(nn.Module):
    """A block and the function that computes it."""

    compute: Callable[..., Tensor]
    compiled = False

    def use(self, compute: Callable[..., Tensor]) -> None:
        """Have another function of the same arguments compute the block, a compiled one."""
        self.compute, self.compiled = compute, True

    def _share(self, share: Tensor) -> Share:
        """As the function wants it; any number for a network without values, whose shapes count."""
        return share[0] if self.compiled else 0.5 if share.is_meta else share.item()


class Resnet(Running):
    """A residual block that takes its part of what was computed for all of them at once."""

    compute = staticmethod(space_time_res_block)

    def __init__(self, block: SpaceTimeResBlock) -> None:
        super().__init__()
        self.block = block

    @cached_property
    def share(self) -> Share:
        """Of the block along time in the blend."""
        return self._share((self.block.sign * self.block.mix.detach().float()).sigmoid())

    def shifts(self, embedding: Float[Tensor, "b e"]) -> Shifts:
        """What the block adds for an embedding."""
        space, time = self.block.space.embedding, self.block.time.embedding
        assert space is not None, "blocks of the UNet read an embedding"
        assert time is not None, "blocks of the UNet read an embedding"
        return Shifts(space(embedding), time(embedding))

    def forward(
        self,
        x: Tensor,
        frames: int,
        shifts: dict[nn.Module, Shifts],
        skip: Tensor | None = None,
    ) -> Tensor:
        return self.compute(self.block, x, frames, shifts[self], self.share, skip)


class Transformer(Running):
    """A transformer that takes its part of what was computed once a clip."""

    compute = staticmethod(space_time_transformer)

    def __init__(self, block: SpaceTimeTransformer) -> None:
        super().__init__()
        self.block = block

    @cached_property
    def share(self) -> Share:
        """Of space in the blend."""
        return self._share(self.block.mix.detach().float().sigmoid())

    def forward(self, x: Tensor, known: dict[nn.Module, Known], frames: int) -> Tensor:
        return self.compute(self.block, x, known[self], self.share)

    def know(self, context: Float[Tensor, "b 1 e"], frames: int) -> Known:
        """What does not depend on the noisy latents."""
        block = self.block
        index = torch.arange(frames, dtype=torch.float32, device=context.device)
        return Known(
            space=block.space.context(context),
            time=block.time.context(context),
            frame=block.frame_embedding(sinusoid(index, block.proj_in.out_features)),
        )


class Clip(NamedTuple):
    """What is computed once a clip."""

    condition: Condition
    frames: int
    image: Float[Tensor, "b f c h w"]
    """What the first convolution makes of the photo's latents: f is 1, or one for each frame."""
    known: dict[nn.Module, Known]


class Run(NamedTuple):
    """What a call of the UNet gave."""

    answers: Answers
    inner: Float[Tensor, "bt c h w"]
    """What its inner blocks gave to the outer ones."""


class PreparedUNet(nn.Module):
    """A UNet for inference: the same function of the same arguments, with the same parameters.

    - Cross-attention, frame embeddings and the photo's part of the first convolution are computed
      once a clip, that is, for as long as the condition is the same object.
    - Latents that several conditions share, as the halves of guidance do, go through the first
      convolution once.
    - A blend is one addition with the residual stream's own; embeddings are added to all frames of
      a clip without being repeated.
    (SVD reference, section 5)
    """

    def __init__(self, unet: VideoUNet) -> None:
        super().__init__()
        self.unet = _twin(unet)
        self.resnets = [m for m in self.unet.modules() if isinstance(m, Resnet)]
        self.transformers = [m for m in self.unet.modules() if isinstance(m, Transformer)]
        self.clips: list[Clip] = []
        """The latest conditions, of which guidance has two."""

    @property
    def conv_in(self) -> nn.Conv2d:
        return self.unet.conv_in

    def blocks(self) -> Iterator[nn.Module]:
        """Its residual blocks and transformers, in the order in which they run."""
        unet = self.unet
        for level in (*unet.down, unet.middle, *unet.up):
            level = cast(Any, level)
            transformers = [level.transformer] if level is unet.middle else level.transformers
            for pair in zip_longest(level.resnets, transformers):
                yield from (block for block in pair if block is not None)

    def forward(self, x: Latents, c_noise: PerClip, condition: Condition) -> Answers:
        """x, c_noise: of as many clips as the condition has, or of fewer, repeated for it."""
        return self.run(x, c_noise, condition).answers

    @torch.no_grad()
    def run(
        self, x: Latents, c_noise: PerClip, condition: Condition, inner: Tensor | None = None
    ) -> "Run":
        """The same, with what the inner blocks gave.

        inner: what they gave in an earlier run of the same clips: they are left out, and only the
            OUTER last blocks on the way up are computed, with what they need of the way down.
        """
        unet, (n, t) = self.unet, x.shape[:2]
        clip = self.begin(condition, t)
        repeats = len(condition.vector) // n
        embedding = unet.embed(c_noise.repeat(repeats), condition.vector)
        shifts = {m: m.shifts(embedding) for m in self.resnets}

        x = rearrange(x, "b t c h w -> (b t) c h w").to(
            unet.conv_in.weight.dtype, memory_format=torch.channels_last
        )
        noisy = F.conv2d(x, unet.conv_in.weight[:, : x.shape[1]], unet.conv_in.bias, padding=1)
        x = repeat(noisy, "(b t) c h w -> (r b) t c h w", r=repeats, t=t) + clip.image
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        told = shifts, clip.known, t
        if inner is None:
            inner, skips = unet.inner(x, *told, OUTER)
        else:
            skips = [x, *cast(DownLevel, unet.down[0]).first(OUTER - 1, x, *told)]
        x = unet.outer(inner, skips, *told)
        return Run(rearrange(x, "(b t) c h w -> b t c h w", t=t), inner)

    def forget(self) -> None:
        """Compute anew what was computed of weights: they are others from now on."""
        self.clips = []
        for block in (*self.resnets, *self.transformers):
            vars(block).pop("share", None)

    def begin(self, condition: Condition, frames: int, known: Clip | None = None) -> Clip:
        """What is computed once a clip; of the two latest it is known.

        known: what an earlier call gave, if it is at hand.
        """
        for clip in self.clips:
            if clip.condition is condition and clip.frames == frames:
                return clip
        if known is not None:
            self.clips = [*self.clips[-1:], known]
            return known
        weight = self.conv_in.weight
        image = condition.image.to(weight.dtype)
        photo = weight[:, -image.shape[2] :]
        context = condition.context.to(weight.dtype)
        clip = Clip(
            condition,
            frames,
            F.conv2d(image.flatten(0, 1), photo, padding=1).unflatten(0, image.shape[:2]),
            {m: m.know(context, frames) for m in self.transformers},
        )
        self.clips = [*self.clips[-1:], clip]
        return clip


def _twin(unet: VideoUNet) -> VideoUNet:
    """The same network of the very same parameters, its blocks exchanged for running ones."""
    shared = {id(parameter): parameter for parameter in unet.parameters()}
    twin = copy.deepcopy(unet, shared)
    parts = cast(Iterable[tuple[str, nn.Module]], twin.named_modules())
    for name, module in tuple(parts):
        if isinstance(module, SpaceTimeResBlock):
            twin.set_submodule(name, Resnet(module))
        elif isinstance(module, SpaceTimeTransformer):
            twin.set_submodule(name, Transformer(module))
    return twin
