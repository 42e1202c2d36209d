"""The moving average of weights, which is what a run hands out."""

import torch
from torch import Tensor, nn

__all__ = ["Average"]


class Average:
    """Exponential moving average of a network's parameters, in fp32.

    Early on the decay is min(decay, (1 + step)/(10 + step)), so that the random start is forgotten
    quickly.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {n: p.detach().clone() for n, p in network.named_parameters()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow the weights after step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = [(self.tensors[n], p) for n, p in network.named_parameters()]
        # One fused call; torch documents it under its private name only.
        torch._foreach_lerp_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            [a for a, _ in pairs], [p.detach() for _, p in pairs], 1 - decay
        )

    @torch.no_grad()
    def write_to(self, network: nn.Module) -> nn.Module:
        """Put the averaged weights into a network of the same shape, and set it to evaluate."""
        for name, parameter in network.named_parameters():
            parameter.copy_(self.tensors[name])
        return network.eval().requires_grad_(False)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take over stored averages; the memory format stays."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])
