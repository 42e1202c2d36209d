"""Tensors that a format wants and a checkpoint doesn't have, made again where that is possible."""

from collections.abc import Callable

import torch
from torch import Tensor

from kinora.weights.checkpoint import Checkpoint
from kinora.weights.names import living_shapes, unused_shapes

__all__ = ["Rebuilt", "Supply"]


class Rebuilt:
    """The unused tensors, from what the networks have.

    The original's first stage has an encoder without quant_conv, which ComfyUI encodes with: it is
    the conditioner's, quant_conv folded into its last convolution. All else is zeros: the text
    half of CLIP, the conditioner's decoder, and the queries, keys and norms of cross-attention
    over a single token, which change nothing whatever they hold.
    """

    def __init__(self, source: Checkpoint, dtype: torch.dtype) -> None:
        self._source = source
        self._dtype = dtype
        self._living = living_shapes(source.config)
        self._unused = unused_shapes(source.config)
        self.names = frozenset(self._unused)
        """Our names of all that can be made."""
        self._folded: dict[str, Callable[[], Tensor]] = {}
        if source.config.vae.temporal_decoder:
            self._folded = {
                "unused.vae.encoder.conv_out.weight": self._folded_weight,
                "unused.vae.encoder.conv_out.bias": self._folded_bias,
            }

    def dtype(self, name: str) -> torch.dtype:
        return self._dtype

    def tensor(self, name: str) -> Tensor:
        if name in self._folded:
            return self._folded[name]()
        twin = name.removeprefix("unused.")
        if twin in self._living:
            return self._source.tensor(twin)
        return torch.zeros(self._unused[name], dtype=self._dtype)

    def forget(self, name: str) -> None:
        pass

    def _folded_weight(self) -> Tensor:
        quant, conv = (self._exact(f"{part}.weight") for part in ("quant_conv", "encoder.conv_out"))
        return torch.einsum("oi,ichw->ochw", quant[:, :, 0, 0], conv)

    def _folded_bias(self) -> Tensor:
        quant = self._exact("quant_conv.weight")[:, :, 0, 0]
        return quant @ self._exact("encoder.conv_out.bias") + self._exact("quant_conv.bias")

    def _exact(self, name: str) -> Tensor:
        return self._source.tensor(f"vae.{name}").double()


Supply = Checkpoint | Rebuilt
"""Something that gives tensors by our names."""
