"""Noise in diffusers' order: for all photos' pixels, then for all clips' latents."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from kinora.errors import RequestError

__all__ = ["Noise"]


class Noise:
    """Draws from one generator for all, from one a clip, or from torch's own.

    device: where numbers are drawn without a generator, as diffusers does.
    """

    def __init__(
        self,
        generator: Generator | Sequence[Generator] | None,
        photos: int,
        clips: int,
        device: torch.device,
    ) -> None:
        given = [generator] if generator is None or isinstance(generator, Generator) else generator
        self.generators: list[Generator | None] = list(given)
        self.photos, self.clips, self.device = photos, clips, device
        if len(self.generators) != clips and (len(self.generators) != 1 or given is generator):
            raise RequestError(
                f"{len(self.generators)} generators for {clips} clips: give one for each clip, or "
                "a single one that is not in a list"
            )

    @property
    def seeds(self) -> list[int | None]:
        """What each generator was seeded with."""
        return [None if g is None else g.initial_seed() for g in self.generators]

    def pixels(self, height: int, width: int) -> Float[Tensor, "b 3 height width"]:
        """For the photos, each from the generator of its first clip."""
        firsts = self.generators[:: self.clips // self.photos]
        return self._draw(firsts, (self.photos, 3, height, width), torch.float32)

    def latents(self, *shape: int, dtype: torch.dtype) -> Float[Tensor, "n t c h w"]:
        """For the clips, drawn in the networks' precision and given in fp32."""
        return self._draw(self.generators, (self.clips, *shape), dtype).float()

    def _draw(
        self, generators: Sequence[Generator | None], shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        part = (shape[0] // len(generators), *shape[1:])
        drawn = [
            torch.randn(part, generator=g, device=g.device if g else self.device, dtype=dtype)
            for g in generators
        ]
        return torch.cat([noise.to(self.device) for noise in drawn])
