"""Random draws, always on the CPU, so that a seed means the same everywhere."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Chance"]


class Chance:
    """A stream of random numbers that depends on its seed alone."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Float[Tensor, "..."]:
        """Numbers spread evenly over [low, high)."""
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def normal(self, *shape: int) -> Float[Tensor, "..."]:
        """Numbers of the unit normal distribution."""
        return torch.randn(shape, generator=self.generator)

    def integer(self, count: int, *shape: int) -> Int[Tensor, "..."]:
        """Whole numbers from 0 to count − 1."""
        return torch.randint(count, shape, generator=self.generator)

    def event(self, probability: float, *shape: int) -> Float[Tensor, "..."]:
        """Ones with this probability, else zeros."""
        return (torch.rand(shape, generator=self.generator) < probability).float()

    def pick(self, weights: tuple[float, ...], count: int) -> Int[Tensor, " n"]:
        """Indices drawn with these weights."""
        return torch.multinomial(
            torch.tensor(weights), count, replacement=True, generator=self.generator
        )
