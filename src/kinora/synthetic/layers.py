"""The layers of a scene: canvases full of shapes, seen one behind the other."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from kinora.synthetic.chance import Chance
from kinora.synthetic.config import SceneConfig
from kinora.synthetic.shapes import ROOM, Look, Shapes, paint
from kinora.synthetic.style import COLOURS, OPPONENT, Style
from kinora.synthetic.textures import PATTERNS, SIZE, SMOOTH, texture_bank

__all__ = ["paint_layers"]

REGIONS = 4
"""Shapes larger than the canvas, such as a ground, a wall, a hill."""
SIZES = (
    (0.9, 0.02),
    (0.7, 0.03),
    (0.55, 0.04),
    (0.45, 0.05),
    (0.35, 0.06),
    (0.28, 0.08),
    (0.22, 0.10),
    (0.17, 0.12),
    (0.40, 0.02),
    (0.13, 0.14),
    (0.10, 0.16),
    (0.07, 0.18),
)
"""Windows of shapes, as fractions of the canvas, and their share: about as many as 1/r³ asks for;
big ones first, since what lies under them is lost, but some again over the small."""
SIDES = 5


class Rank(NamedTuple):
    """Shapes that are drawn together, one on every canvas."""

    side: int
    """Width of their windows."""
    reach: float
    """Their largest radius."""
    whole: bool
    """Whether they make the things of the front layers, rather than decorate them."""


def paint_layers(
    config: SceneConfig, chance: Chance, style: Style, device: torch.device
) -> Float[Tensor, "l b 4 h w"]:
    """Paint every layer of every scene, premultiplied RGBA; the first of each is opaque."""
    batch, layers = len(style.busy), config.layers
    height, width = config.canvas
    bank = texture_bank(device)
    canvas = torch.zeros(4, layers, batch, height, width, device=device)
    canvas[:3, 0] = _backdrop(chance, style, height, width, device)
    canvas[3, 0] = 1
    canvas = canvas.flatten(1, 2)
    ranks = _ranks(config)
    shapes = _draw(chance, config, style, ranks)
    there = [(rank > 0).nonzero()[:, 0] for rank in shapes.opacity]
    shapes = shapes.to(device)
    for k, rank in enumerate(ranks):
        which = there[k].to(device, non_blocking=True)
        if len(which) > 0:
            look = Look(k % 2 == 0, k % 7 == 3, k % 5 < 2, k % 5 in (1, 3))
            paint(canvas, which, shapes.at(k, which), rank.side, look, bank)
    canvas.clamp_(0, 1)
    canvas = canvas.view(4, layers, batch, height, width).permute(1, 2, 0, 3, 4).contiguous()
    blurred = (chance.uniform(batch) < config.defocus).nonzero()[:, 0].to(device)
    if len(blurred) > 0:
        canvas[0, blurred] = _defocus(canvas[0, blurred], 0.012 * width)
    return canvas


def _defocus(canvas: Float[Tensor, "n 4 h w"], deviation: float) -> Float[Tensor, "n 4 h w"]:
    """Blur as a lens does what lies far behind the things it is set to."""
    reach = math.ceil(2.5 * deviation)
    at = torch.arange(-reach, reach + 1, device=canvas.device)
    kernel = torch.softmax(-0.5 * (at / deviation) ** 2, 0)
    planes = F.pad(canvas.flatten(0, 1)[:, None], (reach, reach, reach, reach), mode="replicate")
    planes = F.conv2d(F.conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return planes.view_as(canvas)


def _ranks(config: SceneConfig) -> list[Rank]:
    longest = max(config.canvas)
    ranks = [Rank(longest, float(longest), False)] * (REGIONS if config.shapes > 0 else 0)
    for size, share in SIZES:
        side = max(5, math.ceil(size * longest))
        count = math.ceil(share * config.shapes)
        ranks += [Rank(side, side / 2 / ROOM, 0.3 < size < 0.6 and k < 3) for k in range(count)]
    return ranks


def _backdrop(
    chance: Chance, style: Style, height: int, width: int, device: torch.device
) -> Float[Tensor, "3 b h w"]:
    """A smooth gradient between two colours of the palette, such as a sky's."""
    batch = len(style.busy)
    angle = (0.5 + 0.25 * chance.normal(batch)) * math.pi
    steep = chance.uniform(batch, low=1.0, high=8.0)
    share = chance.uniform(batch)
    first, second = style.palette[:, 0].T, style.palette[:, 1].T
    across, down, first, change = (
        value.to(device)[..., None, None]
        for value in (angle.cos() * steep, angle.sin() * steep, first, (second - first) * share)
    )
    x = torch.linspace(-0.5, 0.5, width, device=device)
    y = torch.linspace(-0.5, 0.5, height, device=device)[:, None]
    return first + change * torch.sigmoid(x * across + y * down)


def _draw(chance: Chance, config: SceneConfig, style: Style, ranks: list[Rank]) -> Shapes:
    """Draw all shapes: one of each rank for each layer of each scene."""
    batch, layers = len(style.busy), config.layers
    shape = (len(ranks), layers, batch)
    size = torch.tensor([config.canvas[1], config.canvas[0]]).float()
    reach = torch.tensor([rank.reach for rank in ranks])[:, None, None]
    region = torch.arange(len(ranks))[:, None, None] < REGIONS
    whole = torch.tensor([rank.whole for rank in ranks])[:, None, None]
    front = torch.arange(layers)[:, None] > 0
    thing = front & whole & (chance.uniform(*shape) < 0.6)
    here = chance.uniform(*shape)
    shown = (here < style.busy) & ~(front & (reach > 0.1 * max(config.canvas)))
    shown = torch.where(region, (here < style.divided) & ~front, shown)
    angle = chance.uniform(*shape) * (2 * math.pi)
    index = chance.integer(COLOURS, *shape)
    normals, sides = _polygon(chance, shape, angle)
    grain = chance.normal(*shape, 3) * torch.tensor([1.0, 0.15, 0.05])
    jitter = chance.normal(*shape, 3) * torch.tensor([0.08, 0.02, 0.015])
    colour = style.palette[torch.arange(batch), index] + jitter @ torch.tensor(OPPONENT)
    patterned = chance.uniform(*shape) < style.patterned
    jagged = chance.event(0.35, *shape)
    soft = chance.event(0.15, *shape) * 4 * chance.uniform(*shape) ** 2
    values = Shapes(
        centre=_places(chance, shape, size, front),
        # Within a rank as between them, sizes fall as 1/r³.
        radius=reach * 0.75 / torch.sqrt(1 - 0.4375 * chance.uniform(*shape)),
        turn=torch.stack([angle.cos(), angle.sin()], -1),
        aspect=chance.uniform(*shape, low=0.3, high=1.0),
        normals=normals,
        sides=sides,
        hollow=chance.uniform(*shape, low=0.05, high=0.3),
        rough=jagged * chance.uniform(*shape, high=0.1) * (1 - 0.7 * region),
        edge=1.2 + 1.5 * jagged + soft,
        opacity=(thing | shown) * (1 - 0.5 * chance.event(0.1, *shape)),
        atop=(front & ~thing & (chance.uniform(*shape) < 0.9)).float(),
        colour=colour,
        grain=grain @ torch.tensor(OPPONENT) * style.grain[:, None],
        shade=style.light * 0.08 * chance.normal(*shape, 1) + 0.03 * chance.normal(*shape, 2),
        bulge=chance.normal(*shape) * 0.2,
        shadow=chance.uniform(*shape, high=0.5),
        texture=torch.where(
            patterned, SMOOTH + chance.integer(PATTERNS, *shape), chance.integer(SMOOTH, *shape)
        ),
        offset=chance.integer(SIZE, *shape, 2),
    )
    return Shapes(*(value.flatten(1, 2) for value in values))


def _places(
    chance: Chance,
    shape: tuple[int, int, int],
    size: Float[Tensor, " 2"],
    front: Bool[Tensor, "l 1"],
) -> Float[Tensor, "r l b 2"]:
    """Centres: anywhere on the background, in a group on the front layers."""
    anywhere = chance.uniform(*shape, 2) * size
    focus = chance.uniform(*shape[1:], 2, low=0.3, high=0.7) * size
    group = focus + chance.normal(*shape, 2) * 0.13 * size
    return torch.where(front[..., None], group, anywhere)


def _polygon(
    chance: Chance, shape: tuple[int, int, int], angle: Float[Tensor, "r l b"]
) -> tuple[Float[Tensor, "r l b k 2"], Float[Tensor, "r l b k"]]:
    """Sides of polygons that fit the unit circle: irregular ones, boxes and bars."""
    around = (torch.arange(SIDES) + 0.6 * chance.normal(*shape, SIDES)) * (2 * math.pi / SIDES)
    away = chance.uniform(*shape, SIDES, low=0.35, high=0.75)
    bar = chance.event(0.4, *shape)
    long = 0.7 + 0.25 * bar
    thin, thick = (
        0.03 + 0.2 * chance.uniform(*shape) ** 2,
        chance.uniform(*shape, low=0.3, high=0.7),
    )
    short = bar * thin + (1 - bar) * thick
    box = chance.event(0.6, *shape)[..., None] > 0
    square = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0]) * (math.pi / 2)
    around = torch.where(box, square, around) + angle[..., None]
    away = torch.where(box, torch.stack([long, short, long, short, long], -1), away)
    return torch.stack([around.cos(), around.sin()], -1), away
