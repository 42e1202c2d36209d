"""Group norms whose statistics are gathered piece by piece."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Moments"]

PIECE = 1 << 22
"""Values that are raised to fp32 at a time."""


class Moments:
    """Mean and variance of each group of a norm, over everything that was added.

    In fp32, joined pairwise, so that many small pieces lose no more than one large one would.
    (Chan, Golub & LeVeque 1979)
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        self.norm = norm
        self.count = 0
        self.mean = norm.weight.new_zeros(norm.num_groups, dtype=torch.float32)
        self.squares = torch.zeros_like(self.mean)
        """Sum of squared distances from the mean."""

    def add(self, x: Float[Tensor, "1 c y x"]) -> None:
        step = max(1, PIECE * x.shape[2] // x.numel())
        for start in range(0, x.shape[2], step):
            piece = x[:, :, start : start + step].float()
            self._add(rearrange(piece, "1 (g d) y x -> 1 g d y x", g=self.norm.num_groups))

    def _add(self, x: Float[Tensor, "1 g d y x"]) -> None:
        count = x[:, 0].numel()
        variance, mean = torch.var_mean(x, dim=(0, 2, 3, 4), correction=0)
        total, apart = self.count + count, mean - self.mean
        self.squares += variance * count + apart**2 * (self.count * count / total)
        self.mean += apart * (count / total)
        self.count = total

    def normalise(self, x: Float[Tensor, "1 c y x"]) -> Float[Tensor, "1 c y x"]:
        """The norm of x, as if all that was added had been normed together."""
        each = x.shape[1] // self.norm.num_groups
        spread = (self.squares / self.count + self.norm.eps).rsqrt().repeat_interleave(each)
        scale = spread * self.norm.weight.float()
        shift = self.norm.bias.float() - self.mean.repeat_interleave(each) * scale
        return torch.addcmul(shift[:, None, None], x.float(), scale[:, None, None]).to(x.dtype)
