"""Numbers as vectors: sinusoids, and the small networks that read them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Embedding", "sinusoid"]


def sinusoid(x: Float[Tensor, " n"], dim: int) -> Float[Tensor, "n {dim}"]:
    """Cosines, then sines, of x at `dim / 2` frequencies from 1 down to about 1/10000.

    f_i = 10000^(−i / (dim/2)). Always in fp32: c_noise and frame indices lose too much in half
    precision. (Vaswani et al. 2017, section 3.5, in the order used by guided diffusion)
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=x.device)
    angles = x.float()[:, None] * torch.exp(-math.log(10000.0) / half * index)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Embedding(nn.Module):
    """Two linear layers that turn a sinusoid into an embedding."""

    def __init__(self, dim_in: int, dim: int, dim_out: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim_in, dim)
        self.linear_2 = nn.Linear(dim, dim_out)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        x = x.to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(x)))
