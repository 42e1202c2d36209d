"""What the shapes of a scene have in common: a palette, a light, how busy it is."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kinora.synthetic.chance import Chance

__all__ = ["COLOURS", "OPPONENT", "Style", "draw_style"]

COLOURS = 6
OPPONENT = ((1.0, 1.0, 1.0), (1.0, -0.2, -0.9), (0.35, -0.6, 0.35))
"""Axes that the colours of photos vary along: brightness, orange–blue, magenta–green."""


class Style(NamedTuple):
    """The style of each of b scenes."""

    palette: Float[Tensor, "b k 3"]
    busy: Float[Tensor, " b"]
    """Share of the shapes that are there."""
    divided: Float[Tensor, " b"]
    """Share of the shapes larger than the canvas that are there."""
    grain: Float[Tensor, " b"]
    """Strength of textures."""
    patterned: Float[Tensor, " b"]
    """Share of shapes with stripes or dots."""
    light: Float[Tensor, "b 2"]
    """Where the light comes from."""


def draw_style(chance: Chance, batch: int) -> Style:
    """Draw what the scenes look like as wholes."""
    tone = chance.uniform(batch, 1, low=0.25, high=0.65)
    spread = chance.uniform(batch, 1, low=0.1, high=0.38)
    brightness = (tone + spread * chance.normal(batch, COLOURS)).clamp(0, 1)
    cast = chance.normal(batch, 1, 2) * torch.tensor([0.14, 0.04])
    tint = chance.normal(batch, COLOURS, 2) * torch.tensor([0.16, 0.08])
    vivid = 1 + 2.0 * chance.event(0.2, batch, COLOURS, 1) * chance.uniform(batch, COLOURS, 1)
    chroma = (cast + tint * vivid) * (0.35 + 1.3 * brightness * (1.2 - brightness))[..., None]
    weights = torch.cat([brightness[..., None], chroma], -1)
    angle = chance.uniform(batch, low=-0.8, high=0.8) * math.pi - math.pi / 2
    return Style(
        palette=weights @ torch.tensor(OPPONENT),
        busy=chance.uniform(batch) ** 2 * 0.97 + 0.03,
        divided=chance.uniform(batch, high=0.9),
        grain=chance.uniform(batch) ** 2 * 0.18 + 0.015,
        patterned=chance.event(0.3, batch) * chance.uniform(batch, high=0.4),
        light=torch.stack([angle.cos(), angle.sin()], -1),
    )
