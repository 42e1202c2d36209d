"""Group norms whose statistics are gathered piece by piece."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kinora.runtime.sizes import counting, kind_of

__all__ = ["Moments"]


class Moments:
    """Mean and variance of each group of a norm, over everything that was added.

    In fp32, joined pairwise, so that many small pieces lose no more than one large one would.
    (Chan, Golub & LeVeque 1979)
    """

    def __init__(self, norm: nn.GroupNorm, piece: int) -> None:
        """piece: values that are raised to fp32 at a time."""
        self.norm = norm
        self.piece = piece
        self.count = 0
        self.mean = norm.weight.new_zeros(norm.num_groups, dtype=torch.float32)
        self.squares = torch.zeros_like(self.mean)
        """Sum of squared distances from the mean."""

    def add(self, x: Float[Tensor, "1 c y x"]) -> None:
        pieces = torch.split(x, max(1, self.piece * x.shape[2] // x.numel()), dim=2)
        for piece in pieces[:1] if counting(x.device) else pieces:
            self._add(_readable(piece))

    def _add(self, x: Float[Tensor, "1 c y x"]) -> None:
        groups, (_, channels, height, width) = self.norm.num_groups, x.shape
        # The norm's own kernel, whose result is not wanted: it takes a tenth of var_mean's time.
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


def _readable(x: Tensor) -> Tensor:
    """In fp32, in a layout that the norm's kernel reads: only a CPU's reads channels last."""
    if kind_of(x.device) != "cpu":
        return x.to(torch.float32, memory_format=torch.contiguous_format).contiguous()
    x = x.float()
    whole = x.is_contiguous(memory_format=torch.channels_last) or x.is_contiguous()
    return x if whole else x.contiguous()
