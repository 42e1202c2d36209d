"""The noise that a clip is made from."""

import torch
from jaxtyping import Float
from torch import Tensor

from kinora.config import ModelConfig
from kinora.request import Plan

__all__ = ["Draws"]


class Draws:
    """A clip's unit normal noise, all from its seed: once for the photo's pixels, then latents.

    Drawn on the CPU in fp32 for each clip by itself, so that a seed means the same everywhere.
    """

    def __init__(self, plan: Plan, config: ModelConfig) -> None:
        width, height = plan.size
        factor = config.vae.factor
        self.sides = height, width
        self.shape = plan.frames, config.vae.latent_channels, height // factor, width // factor
        self.generator = torch.Generator().manual_seed(plan.seed)

    def pixels(self) -> Float[Tensor, "3 height width"]:
        """To be drawn first."""
        return self._draw(3, *self.sides)

    def latents(self) -> Float[Tensor, "t c h w"]:
        """For the start, then for each time that a sampler asks for more."""
        return self._draw(*self.shape)

    def _draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float32, device="cpu")
