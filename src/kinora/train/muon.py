"""Muon: momentum whose every step is made orthogonal, for the matrices inside a network."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Muon", "orthogonal"]

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the iteration, chosen by its author to lift small singular values quickly."""
ITERATIONS = 5
ADAM_RMS = 0.2
"""About the root mean square of AdamW's steps, per unit of learning rate (Liu et al. 2025)."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. Kernels count as matrices [out, in · height · width].

    Steps have the size of AdamW's, so that one learning rate serves both. Meant for hidden layers;
    first and last layers, biases and norms are AdamW's.
    (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the size of
    the steps as in Liu et al. 2025, "Muon is Scalable for LLM Training")
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient. closure: not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(momentum, group["momentum"])
        matrix = orthogonal(ahead.flatten(1))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        size = ADAM_RMS * max(matrix.shape) ** 0.5
        parameter.add_(matrix.view(parameter.shape), alpha=-group["lr"] * size)


def orthogonal(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """About U·Vᵀ of the matrix's singular value decomposition U·S·Vᵀ, without computing it.

    An odd polynomial of the matrix, iterated, takes its singular values close to 1 (to 0.7–1.2).
    All iterations but the first and last product happen in the smaller square: with G = X·Xᵀ,
    every iterate is a polynomial of G times X.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    a, b, c = QUINTIC
    matrix = matrix.float()
    scale = (matrix.square().sum() + 1e-14).rsqrt()
    square = (matrix @ matrix.T) * scale**2
    identity = torch.eye(len(square), device=square.device)
    total = identity * scale
    for _ in range(ITERATIONS):
        factor = a * identity + b * square + c * square @ square
        total = factor @ total
        square = factor @ square @ factor
    return total @ matrix
