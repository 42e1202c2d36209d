"""What both foreign formats name alike, and where in the UNet its transformers stand."""

from collections.abc import Iterator

from kinora.config import UNetConfig
from kinora.weights.keymap import Rule, layers, weights

__all__ = ["FLAT_RES_BLOCK", "time_transformer_block", "transformer_block", "transformers"]

FLAT_RES_BLOCK = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
"""A 2D residual block of the autoencoder, without its skip convolution."""


def transformer_block(theirs: str, ours: str) -> Iterator[Rule]:
    """One transformer block; its dead tensors go under `unused.`.

    Cross-attention over one context token needs no queries, no keys, and no norm in front of them.
    """
    kept = {
        "norm1": "norm_attention",
        "attn1.to_out.0": "attention.to_out",
        "attn2.to_out.0": "context.out",
        "norm3": "norm_feed_forward",
        **_feed_forward("ff", "feed_forward"),
    }
    yield from layers(theirs, ours, kept)
    without_bias = {f"attn1.to_{x}": f"attention.to_{x}" for x in "qkv"}
    yield from weights(theirs, ours, {**without_bias, "attn2.to_v": "context.value"})
    yield from layers(theirs, f"unused.{ours}context.", {"norm2": "norm"})
    yield from weights(theirs, f"unused.{ours}context.", {f"attn2.to_{x}": f"to_{x}" for x in "qk"})


def time_transformer_block(theirs: str, ours: str) -> Iterator[Rule]:
    """The same over frames, with one more feed-forward in front."""
    yield from transformer_block(theirs, ours)
    yield from layers(
        theirs, ours, {"norm_in": "norm_in", **_feed_forward("ff_in", "feed_forward_in")}
    )


def _feed_forward(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.net.0.proj": f"{ours}.proj_in", f"{theirs}.net.2": f"{ours}.proj_out"}


def transformers(config: UNetConfig) -> Iterator[tuple[str, int]]:
    """Our names of all space-time transformers of a UNet, each with its width."""
    levels = list(zip(config.channels, config.attention, strict=True))
    for i, (width, attention) in enumerate(levels):
        if attention:
            yield from ((f"unet.down.{i}.transformers.{j}.", width) for j in range(config.blocks))
    yield "unet.middle.transformer.", config.channels[-1]
    for i, (width, attention) in enumerate(reversed(levels)):
        if attention:
            yield from ((f"unet.up.{i}.transformers.{j}.", width) for j in range(config.blocks + 1))
