"""Work saved between steps: what the inner blocks gave is used again. An approximation."""

from torch import Tensor

from kinora.runtime.recorded import Recorded
from kinora.runtime.unet import PreparedUNet
from kinora.types import Answers, Condition, Latents, PerClip

__all__ = ["Reusing"]


class Reusing:
    """A prepared UNet that computes its inner blocks at every n-th call only.

    The innermost features change little from one noise level to the next; the outermost blocks,
    which see the noisy latents through the skip connection, are always computed.
    For one clip or batch: it remembers.  (Ma et al. 2023, "DeepCache")
    """

    def __init__(self, unet: PreparedUNet | Recorded, every: int) -> None:
        self.unet = unet
        self.every = every
        self.calls: dict[int, int] = {}
        self.inner: dict[int, Tensor] = {}
        """By condition: that of both halves of guidance has features of its own."""

    def __call__(self, x: Latents, c_noise: PerClip, condition: Condition, /) -> Answers:
        key = id(condition)
        count = self.calls.get(key, 0)
        again = self.inner.get(key) if count % self.every else None
        answers, self.inner[key] = self.unet.run(x, c_noise, condition, again)
        self.calls[key] = count + 1
        return answers
