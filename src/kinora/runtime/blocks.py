"""The networks' blocks as they run without gradients: in place, and in pieces where that is less.

Each function does what the `forward` of the module that it is given does.
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kinora.models.attention import Attention, FeedForward, SpaceTimeTransformer, TransformerBlock
from kinora.models.resnet import ResBlock, SpaceTimeResBlock, across_time
from kinora.runtime.attention import attend
from kinora.runtime.sizes import counting, sizes_of

__all__ = [
    "Known",
    "Share",
    "Shifts",
    "res_block",
    "space_time_res_block",
    "space_time_transformer",
]

Share = float | Float[Tensor, ""]
"""Of one side in a blend. A tensor where blocks are compiled, which would be done anew for every
number; as a number it takes no temporary tensor."""


class Known(NamedTuple):
    """What a transformer adds that does not depend on the noisy latents."""

    space: Float[Tensor, "b 1 d"]
    """What cross-attention gives in space, of each clip."""
    time: Float[Tensor, "b 1 d"]
    """The same along time."""
    frame: Float[Tensor, "t d"]
    """The embedding of each frame's index."""


class Shifts(NamedTuple):
    """What a residual block in space and one along time make of the embedding."""

    space: Float[Tensor, "b d"]
    time: Float[Tensor, "b d"]


def res_block(
    block: ResBlock,
    x: Float[Tensor, "n c y x"],
    shift: Float[Tensor, "n d"] | None = None,
    share: Share | None = None,
) -> Float[Tensor, "n d y x"]:
    """A residual block.

    shift: what its embedding layer makes of the embedding.
    share: of what the residual stream gains, where not all of it is added.
    """
    h = block.conv1(F.silu(block.norm1(x), inplace=True))
    if shift is not None:
        h += shift[:, :, None, None]
    h = block.conv2(F.silu(block.norm2(h), inplace=True))
    x = x if block.skip is None else block.skip(x)
    if share is None:
        return h.add_(x)
    if isinstance(share, Tensor):
        return x + share * h
    return torch.add(x, h, alpha=share, out=h)


def space_time_res_block(
    block: SpaceTimeResBlock,
    x: Float[Tensor, "bt c h w"],
    frames: int,
    shifts: Shifts,
    share: Share,
    skip: Float[Tensor, "bt s h w"] | None = None,
) -> Float[Tensor, "bt d h w"]:
    """share: of time in the blend; that of s and s + h is s + share · h."""
    shift = shifts.space.repeat_interleave(frames, dim=0)
    x = _space_res_block(block.space, x, shift, skip)
    return across_time(lambda y: res_block(block.time, y, shifts.time, share), x, frames)


def _space_res_block(
    block: ResBlock,
    x: Float[Tensor, "n c y x"],
    shift: Float[Tensor, "n d"],
    skip: Float[Tensor, "n s y x"] | None,
) -> Float[Tensor, "n d y x"]:
    """As frames don't see each other here, what lies between is held of some at a time."""
    channels = block.conv1.out_channels
    pieces = _pieces(x, (2 * block.conv1.in_channels + 2 * channels) * x[0, 0].numel())

    def piece(rows: slice) -> Tensor:
        part = x[rows] if skip is None else torch.cat([x[rows], skip[rows]], dim=1)
        return res_block(block, part, shift[rows])

    if pieces[0].stop >= len(x):
        return piece(pieces[0])
    sizes = len(x), channels, *x.shape[2:]
    made = torch.empty(sizes, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for rows in pieces:
        made[rows] = piece(rows)
    return made


def space_time_transformer(
    block: SpaceTimeTransformer, x: Float[Tensor, "bt c h w"], known: Known, share: Share
) -> Float[Tensor, "bt c h w"]:
    """share: of space in the blend. Tokens are moved only as they are computed."""
    b, t, h = len(known.space), len(known.frame), x.shape[2]
    tokens = block.proj_in(rearrange(block.norm(x), "bt c h w -> bt (h w) c"))
    _transformer_block(block.space, tokens, known.space.repeat_interleave(t, dim=0))

    space = rearrange(tokens, "(b t) n c -> b n t c", b=b)
    if torch.compiler.is_compiling():
        time = (space + known.frame).contiguous()
    else:
        time = torch.empty(space.shape, dtype=space.dtype, device=space.device)
        torch.add(space, known.frame, out=time)
    n = space.shape[1]
    _transformer_block(block.time, time.flatten(0, 1), known.time.repeat_interleave(n, dim=0))

    if torch.compiler.is_compiling():
        tokens = rearrange(torch.lerp(time, space, share), "b n t c -> (b t) n c")
    else:
        torch.lerp(time, space, share, out=space)
    return x + rearrange(block.proj_out(tokens), "bt (h w) c -> bt c h w", h=h)


def _transformer_block(
    block: TransformerBlock, x: Float[Tensor, "b n d"], bias: Float[Tensor, "b 1 d"]
) -> None:
    """On the residual stream x itself."""
    if block.norm_in is not None and block.feed_forward_in is not None:
        _feed_forward(block.feed_forward_in, block.norm_in, x)
    # Of each token the norm's values, q, k, v and what attention gives.
    for rows in _pieces(x, 5 * x.shape[1] * x.shape[2]):
        part = x[rows]
        part += _attention(block.attention, block.norm_attention(part))
    x += bias
    _feed_forward(block.feed_forward, block.norm_feed_forward, x)


def _attention(block: Attention, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
    q, k, v = (
        rearrange(project(x), "b n (h d) -> b n h d", h=block.heads)
        for project in (block.to_q, block.to_k, block.to_v)
    )
    return block.to_out(attend(q, k, v).flatten(2))


def _feed_forward(block: FeedForward, norm: nn.LayerNorm, x: Float[Tensor, "b n d"]) -> None:
    tokens = x.flatten(0, 1)
    for rows in _pieces(tokens, block.proj_in.out_features):
        part = tokens[rows]
        part += _geglu(block, norm(part))


def _geglu(block: FeedForward, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    inner, gate = block.proj_in(x).chunk(2, dim=-1)
    inner *= F.gelu(gate)
    return block.proj_out(inner)


def _pieces(x: Tensor, values: int) -> list[slice]:
    """Rows of x by as many as the device takes at a time, where computing one takes so many values:
    pieces of about one size, as kernels don't like a small rest."""
    count = math.ceil(len(x) * values * x.element_size() / sizes_of(x.device).piece)
    step = math.ceil(len(x) / count)
    end = step if counting(x.device) else len(x)
    return [slice(start, start + step) for start in range(0, end, step)]
