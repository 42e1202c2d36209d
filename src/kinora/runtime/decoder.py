"""Decoding whole clips in bounded memory: the same frames as `VideoAutoencoder.decode`.

What happens within a frame needs no other frame, so it runs frame by frame. What happens along
time needs no other pixel but for its norms, so it runs tile by tile, each norm's statistics being
gathered on the way. (SVD reference, section 5, row 10)
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kinora.models import VideoAutoencoder
from kinora.models.resnet import ResBlock, SpaceTimeResBlock, across_time
from kinora.models.vae import Decoder, Level
from kinora.runtime.blocks import res_block
from kinora.runtime.moments import Moments
from kinora.runtime.sizes import counting, sizes_of
from kinora.types import Frames, Latents

__all__ = ["decode"]

Within = Callable[[Tensor], Tensor]
"""What is done to one frame."""

NORMED = 8
"""Bytes of a tile for each value that is raised to fp32 at a time, to be normed."""


@torch.no_grad()
def decode(
    vae: VideoAutoencoder, latents: Latents, *, keep: int = 0, tile: int | None = None
) -> Frames:
    """The frames of whole clips; not clamped. Computes in the decoder's precision.

    keep: bytes that may be spent on results along time that are needed twice; what doesn't fit is
        computed twice.
    tile: bytes of some rows of all frames that are computed along time together; as few
        as the device takes when left out.
    """
    tile = tile or sizes_of(latents.device).tiles[-1]
    return torch.stack([_decode_clip(vae, clip, keep, tile) for clip in latents])


def _decode_clip(
    vae: VideoAutoencoder, latents: Float[Tensor, "t c h w"], keep: int, tile: int
) -> Tensor:
    decoder = vae.decoder
    dtype = decoder.conv_in.weight.dtype
    latents = latents.to(dtype, memory_format=torch.channels_last)
    frames = [latents[i : i + 1] for i in range(len(latents))]
    waiting: list[Within] = [] if vae.post_quant_conv is None else [vae.post_quant_conv]
    for part in _parts(decoder):
        if isinstance(part, SpaceTimeResBlock):
            waiting.append(_within(part.space))
            frames, waiting = _each(frames, waiting), []
            _along_time(part, frames, keep, tile)
        else:
            waiting.append(_within(part))
    clip = torch.cat(_each(frames, waiting))
    return clip if decoder.time_conv is None else across_time(decoder.time_conv, clip, len(clip))


def _parts(decoder: Decoder) -> Iterator[nn.Module | Within]:
    """What a clip goes through, in order."""
    yield decoder.conv_in
    yield decoder.middle.resnets[0]
    yield decoder.middle.attention
    yield decoder.middle.resnets[1]
    for level in cast(Iterable[Level], decoder.up):
        yield from level.resnets
        if level.upsample is not None:
            yield partial(_doubled, level.upsample)
    yield partial(_finish, decoder)


def _doubled(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _finish(decoder: Decoder, x: Tensor) -> Tensor:
    return decoder.conv_out(F.silu(decoder.norm_out(x), inplace=True))


def _within(part: nn.Module | Within) -> Within:
    return partial(res_block, part) if isinstance(part, ResBlock) else part


def _each(frames: list[Tensor], functions: list[Within]) -> list[Tensor]:
    """All functions on every frame; each frame is let go of as soon as it is used."""
    made: list[Tensor] = []
    while frames:
        x = frames.pop(0)
        for function in functions:
            x = function(x)
        made.append(x)
    return made


def _along_time(block: SpaceTimeResBlock, frames: list[Tensor], keep: int, tile: int) -> None:
    """The block along time and its blend, in place: frames + share · conv2(…conv1(…)).

    The blend of s and s + h is s + share · h.
    """
    time = block.time
    first = Moments(time.norm1, tile // NORMED)
    for frame in frames:
        first.add(frame)
    tiles = _tiles(frames, tile)

    def hidden(rows: slice) -> Float[Tensor, "1 c t n"]:
        return time.conv1(F.silu(first.normalise(_gather(frames, rows)), inplace=True))

    second = Moments(time.norm2, tile // NORMED)
    kept: dict[int, Tensor] = {}
    for rows in tiles:
        h = hidden(rows)
        second.add(h)
        keep -= h.nbytes
        if keep >= 0:
            kept[rows.start] = h
    share = (block.sign * block.mix).sigmoid().to(frames[0].dtype)
    for rows in tiles:
        h = kept.pop(rows.start, None)
        h = second.normalise(hidden(rows) if h is None else h)
        change = time.conv2(F.silu(h, inplace=True)).mul_(share)
        for frame, part in zip(frames, change[0].unbind(1), strict=True):
            frame[0, :, rows] += part.view(frame[0, :, rows].shape)


def _tiles(frames: list[Tensor], tile: int) -> list[slice]:
    """Ranges of rows of about so many bytes over all frames; where memory is counted only, the
    first two, as each lets go of the results of the one before."""
    height = frames[0].shape[2]
    row = len(frames) * frames[0].nbytes // height
    step = max(1, tile // row)
    end = min(2 * step, height) if counting(frames[0].device) else height
    return [slice(start, min(start + step, height)) for start in range(0, end, step)]


def _gather(frames: list[Tensor], rows: slice) -> Float[Tensor, "1 c t n"]:
    """Some rows of all frames, as frames × pixels, channels last in memory."""
    tile = torch.stack([frame[0, :, rows].permute(1, 2, 0) for frame in frames])
    return tile.flatten(1, 2).permute(2, 0, 1)[None]
