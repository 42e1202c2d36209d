"""Attention, and the space-time transformer of the UNet.

In SVD every transformer attends to one context token, the photo's embedding. A softmax over one
token is 1, so cross-attention is the constant `to_out(to_v(c))`: a bias, `Context` here.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kinora.models.embeddings import Embedding, sinusoid
from kinora.models.resnet import zero_

__all__ = ["Attention", "Context", "FeedForward", "SpaceTimeTransformer", "TransformerBlock"]


class Attention(nn.Module):
    """Multi-head self-attention over tokens."""

    def __init__(self, dim: int, heads: int, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=bias)
        self.to_k = nn.Linear(dim, dim, bias=bias)
        self.to_v = nn.Linear(dim, dim, bias=bias)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = (
            rearrange(project(x), "b n (h d) -> b h n d", h=self.heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        return self.to_out(
            rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)")
        )


class Context(nn.Module):
    """Cross-attention to a context of one token, which is a bias: `to_out(to_v(context))`."""

    def __init__(self, context_dim: int, dim: int) -> None:
        super().__init__()
        self.value = nn.Linear(context_dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, context: Float[Tensor, "b 1 c"]) -> Float[Tensor, "b 1 d"]:
        return self.out(self.value(context))


class FeedForward(nn.Module):
    """Linear layers around a GEGLU, four times as wide. (Shazeer 2020)"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, 8 * dim)
        self.proj_out = nn.Linear(4 * dim, dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(x * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, the context's bias, feed-forward; each on the residual stream.

    lead: whether one more feed-forward comes first, as it does along time.
    """

    def __init__(self, dim: int, heads: int, context_dim: int, *, lead: bool) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(dim) if lead else None
        self.feed_forward_in = FeedForward(dim) if lead else None
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.context = Context(context_dim, dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim)

    def forward(
        self, x: Float[Tensor, "b n d"], bias: Float[Tensor, "b 1 d"]
    ) -> Float[Tensor, "b n d"]:
        """bias: what `context` made of the photo's embedding, one row a sequence."""
        if self.norm_in is not None and self.feed_forward_in is not None:
            x = x + self.feed_forward_in(self.norm_in(x))
        x = x + self.attention(self.norm_attention(x)) + bias
        return x + self.feed_forward(self.norm_feed_forward(x))


class SpaceTimeTransformer(nn.Module):
    """Each frame attends to itself, each pixel to itself in the other frames; the two are blended.

    (Blattmann et al. 2023, "Align your Latents", section 3.1.1; the blend as in SVD:
    α·space + (1 − α)·time, α = sigmoid(mix))
    """

    def __init__(self, dim: int, heads: int, context_dim: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, dim, eps=1e-6)
        self.proj_in = nn.Linear(dim, dim)
        self.space = TransformerBlock(dim, heads, context_dim, lead=False)
        self.frame_embedding = Embedding(dim, 4 * dim, dim)
        self.time = TransformerBlock(dim, heads, context_dim, lead=True)
        self.mix = nn.Parameter(torch.full((1,), 0.5))
        self.proj_out = nn.Linear(dim, dim)
        zero_(self.proj_out)

    def forward(
        self, x: Float[Tensor, "bt c h w"], context: Float[Tensor, "b 1 e"], frames: int
    ) -> Float[Tensor, "bt c h w"]:
        b, (h, w) = len(context), x.shape[2:]
        tokens = self.proj_in(rearrange(self.norm(x), "bt c h w -> bt (h w) c"))

        bias = self.space.context(context).repeat_interleave(frames, dim=0)
        space = self.space(tokens, bias)

        index = torch.arange(frames, dtype=torch.float32, device=x.device)
        frame = self.frame_embedding(sinusoid(index, tokens.shape[2])).repeat(b, 1)[:, None]
        bias = self.time.context(context).repeat_interleave(h * w, dim=0)
        time = rearrange(space + frame, "(b t) n c -> (b n) t c", b=b)
        time = rearrange(self.time(time, bias), "(b n) t c -> (b t) n c", b=b)

        tokens = torch.lerp(time, space, self.mix.sigmoid().to(space.dtype))
        return x + rearrange(self.proj_out(tokens), "bt (h w) c -> bt c h w", h=h, w=w)
