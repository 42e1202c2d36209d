"""Group norms whose statistics are gathered piece by piece."""

import torch
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
        for piece in torch.split(x, max(1, PIECE * x.shape[2] // x.numel()), dim=2):
            self._add(piece.float())

    def _add(self, x: Float[Tensor, "1 c y x"]) -> None:
        groups, (_, channels, height, width) = self.norm.num_groups, x.shape
        # The norm's own kernel, whose result is not wanted: it takes a tenth of var_mean's time.
        # Only a CPU's reads channels last.
        x = x if x.device.type in ("cpu", "meta") else x.contiguous()
        _, mean, spread = torch.native_group_norm(
            x, None, None, 1, channels, height * width, groups, 0.0
        )
        count = x.numel() // groups
        total, apart = self.count + count, mean[0] - self.mean
        self.squares += spread[0] ** -2 * count + apart**2 * (self.count * count / total)
        self.mean += apart * (count / total)
        self.count = total

    def normalise(self, x: Float[Tensor, "1 c y x"]) -> Float[Tensor, "1 c y x"]:
        """The norm of x, as if all that was added had been normed together."""
        each = x.shape[1] // self.norm.num_groups
        spread = (self.squares / self.count + self.norm.eps).rsqrt().repeat_interleave(each)
        scale = spread * self.norm.weight.float()
        shift = self.norm.bias.float() - self.mean.repeat_interleave(each) * scale
        return torch.addcmul(shift[:, None, None], x.float(), scale[:, None, None]).to(x.dtype)
