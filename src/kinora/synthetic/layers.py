"""The layers of a scene: palettes, and canvases full of shapes."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from kinora.synthetic.chance import Chance
from kinora.synthetic.config import SceneConfig
from kinora.synthetic.shapes import SIDES, Shapes, paint
from kinora.synthetic.textures import PATTERNS, SIZE, SMOOTH, texture_bank

__all__ = ["Style", "draw_style", "paint_layers"]

COLOURS = 6
OPPONENT = ((1.0, 1.0, 1.0), (1.0, -0.2, -0.9), (0.35, -0.6, 0.35))
"""Axes that the colours of photos vary along: brightness, orange–blue, magenta–green."""

# Window of a class of sizes as a fraction of the canvas, and its share of the shapes; big ones
# first, with a few big ones again over the small.
CLASSES = (
    (1.0, 0.07),
    (0.5, 0.13),
    (0.25, 0.2),
    (0.12, 0.25),
    (0.4, 0.05),
    (0.12, 0.1),
    (0.06, 0.2),
)


class Style(NamedTuple):
    """What the shapes of a scene have in common, for each of b scenes."""

    palette: Float[Tensor, "b k 3"]
    busy: Float[Tensor, " b"]
    """Share of the shapes that are there."""
    grain: Float[Tensor, " b"]
    """Strength of textures."""
    patterned: Float[Tensor, " b"]
    """Share of shapes with stripes or dots."""
    light: Float[Tensor, "b 2"]
    """Where the light comes from."""
    round_: Float[Tensor, " b"]
    """Share of ellipses; the others are polygons."""


def draw_style(chance: Chance, batch: int) -> Style:
    """Draw what the scenes look like as wholes."""
    tone = chance.uniform(batch, 1, low=0.25, high=0.65)
    spread = chance.uniform(batch, 1, low=0.12, high=0.42)
    brightness = (tone + spread * chance.normal(batch, COLOURS)).clamp(0, 1)
    cast = chance.normal(batch, 1, 2) * torch.tensor([0.09, 0.03])
    tint = chance.normal(batch, COLOURS, 2) * torch.tensor([0.10, 0.05])
    vivid = 1 + 2.0 * chance.event(0.2, batch, COLOURS, 1) * chance.uniform(batch, COLOURS, 1)
    chroma = (cast + tint * vivid) * (0.35 + 1.3 * brightness * (1.2 - brightness))[..., None]
    weights = torch.cat([brightness[..., None], chroma], -1)
    angle = chance.uniform(batch, low=-0.8, high=0.8) * math.pi - math.pi / 2
    return Style(
        palette=weights @ torch.tensor(OPPONENT),
        busy=chance.uniform(batch) ** 1.5 * 0.95 + 0.05,
        grain=chance.uniform(batch) ** 2 * 0.2 + 0.01,
        patterned=chance.event(0.3, batch) * chance.uniform(batch, high=0.4),
        light=torch.stack([angle.cos(), angle.sin()], -1),
        round_=chance.uniform(batch, low=0.1, high=0.9),
    )


def paint_layers(
    config: SceneConfig, chance: Chance, style: Style, device: torch.device
) -> Float[Tensor, "b l 4 h w"]:
    """Paint every layer of every scene, premultiplied RGBA; the first of each is opaque."""
    batch = len(style.busy)
    height, width = config.canvas
    bank = texture_bank(device)
    canvas = torch.zeros(batch, config.layers, height, width, 4)
    canvas[:, 0] = _backdrop(chance, style, height, width)
    canvas = canvas.view(-1, height, width, 4).to(device)
    focus = torch.tensor([width / 2, height / 2]) + (
        chance.uniform(batch, config.layers, 2, low=-0.3, high=0.3)
        * torch.tensor([config.width, config.height])
        * config.oversample
    )
    for k, (window, share) in enumerate(CLASSES):
        size = max(6, round(window * max(height, width)))
        for rank in range(math.ceil(share * config.shapes)):
            shapes = _draw_shapes(chance, config, style, focus, size / 2, (k, rank))
            round_ = (rank + k) % 2 == 0
            paint(canvas, shapes.to(device), (size, size), round_, bank)
    return canvas.view(batch, config.layers, height, width, 4).permute(0, 1, 4, 2, 3).contiguous()


def _backdrop(chance: Chance, style: Style, height: int, width: int) -> Float[Tensor, "b h w 4"]:
    """A smooth gradient between two colours of the palette, such as a sky's."""
    batch = len(style.busy)
    angle = (0.5 + 0.25 * chance.normal(batch)) * math.pi
    x = torch.linspace(-0.5, 0.5, width) * angle.cos()[:, None]
    y = torch.linspace(-0.5, 0.5, height) * angle.sin()[:, None]
    at = y[:, :, None] + x[:, None, :]
    at = torch.sigmoid(at * chance.uniform(batch, low=1, high=8)[:, None, None])[..., None]
    first, second = style.palette[:, 0, None, None], style.palette[:, 1, None, None]
    share = chance.uniform(batch)[:, None, None, None]
    rgb = first + (second - first) * at * share
    return torch.cat([rgb, torch.ones(batch, height, width, 1)], -1).clamp(0, 1)


def _draw_shapes(
    chance: Chance,
    config: SceneConfig,
    style: Style,
    focus: Float[Tensor, "b l 2"],
    reach: float,
    order: tuple[int, int],
) -> Shapes:
    """Draw one shape for each layer of each scene, reaching at most `reach` pixels."""
    batch, layers = focus.shape[:2]
    shape = (batch, layers)
    height, width = config.canvas
    size = torch.tensor([width, height])
    # Power law: sizes fall as 1/r³ within the class as between the classes.
    radius = reach * 0.5 / torch.sqrt(1 - 0.75 * chance.uniform(*shape)) * 0.98
    radius = radius / (1 + 0.0 * radius)
    angle = chance.uniform(*shape) * 2 * math.pi
    anywhere = chance.uniform(*shape, 2) * size
    near = focus + chance.normal(*shape, 2) * 0.12 * size
    front = (torch.arange(layers) > 0).float().expand(shape)
    k, rank = order
    centre = torch.where((front > 0)[..., None] & (k > 0), near, anywhere)
    first = k in (1, 2) and rank < 3
    there = chance.event(1.0, *shape) * (chance.uniform(*shape) < style.busy[:, None]).float()
    whole = front * float(first) * chance.event(0.6, *shape)
    decor = front * chance.event(0.9, *shape) * there
    there = torch.where(front > 0, torch.maximum(whole, decor), there)
    index = chance.integer(COLOURS, *shape)
    colour = torch.gather(style.palette, 1, index[..., None].expand(-1, -1, 3))
    jitter = chance.normal(*shape, 3) * torch.tensor([0.08, 0.02, 0.015]) @ torch.tensor(OPPONENT)
    grain = torch.tensor([1.0, 0.15, 0.05]) * chance.normal(*shape, 3)
    grain = grain @ torch.tensor(OPPONENT) * style.grain[:, None, None]
    thin = chance.event(0.12, *shape)
    patterned = (chance.uniform(*shape) < style.patterned[:, None]).long()
    normals, sides, bar = _polygon(chance, shape)
    values = Shapes(
        centre=centre,
        radius=radius * torch.where(front > 0, 0.8, 1.0),
        turn=torch.stack([angle.cos(), angle.sin()], -1),
        aspect=chance.uniform(*shape, low=0.25, high=1.0),
        normals=normals,
        sides=sides,
        hollow=torch.where(thin > 0, chance.uniform(*shape, low=0.05, high=0.3), 2.0),
        rough=chance.event(0.4, *shape) * chance.uniform(*shape, high=0.12) * (1 - bar),
        edge=torch.where(chance.event(0.2, *shape) > 0, 1 + 4 * chance.uniform(*shape) ** 2, 1.2),
        opacity=there * torch.where(chance.event(0.1, *shape) > 0, 0.5, 1.0),
        atop=front * (1 - whole),
        colour=colour + jitter,
        grain=grain,
        shade=style.light[:, None] * chance.normal(*shape, 1) * 0.08
        + chance.normal(*shape, 2) * 0.03,
        bulge=chance.event(0.4, *shape) * chance.normal(*shape) * 0.2,
        shadow=chance.event(0.4, *shape) * chance.uniform(*shape, high=0.5),
        texture=torch.where(
            patterned > 0,
            SMOOTH + chance.integer(PATTERNS, *shape),
            chance.integer(SMOOTH, *shape),
        ),
        offset=chance.integer(SIZE, *shape, 2),
    )
    return Shapes(*(value.flatten(0, 1) for value in values))


def _polygon(
    chance: Chance, shape: tuple[int, int]
) -> tuple[Float[Tensor, "b l k 2"], Float[Tensor, "b l k"], Float[Tensor, "b l"]]:
    """Sides of polygons that fit the unit circle: irregular ones, boxes and bars (marked by 1)."""
    even = torch.arange(SIDES) / SIDES
    angle = 2 * math.pi * (even + 0.12 * chance.normal(*shape, SIDES))
    away = chance.uniform(*shape, SIDES, low=0.35, high=0.75)
    box = chance.event(0.6, *shape)
    bar = box * chance.event(0.5, *shape)
    right = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0]) * (math.pi / 2)
    long = 0.7 + 0.25 * bar
    short = torch.where(
        bar > 0, 0.03 + 0.2 * chance.uniform(*shape) ** 2, 0.3 + 0.4 * chance.uniform(*shape)
    )
    rectangle = torch.stack([long, short, long, short, long], -1)
    angle = torch.where(box[..., None] > 0, right, angle)
    away = torch.where(box[..., None] > 0, rectangle, away)
    return torch.stack([angle.cos(), angle.sin()], -1), away, bar
