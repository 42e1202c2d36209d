"""What a layer is drawn of: overlapping shapes, each with an outline, a colour and a texture."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kinora.synthetic.textures import SIZE

__all__ = ["ROOM", "Look", "Shapes", "Window", "paint"]

ROOM = 1.3
"""How far a shape with its roughness and shadow reaches from its centre, in radii."""


class Shapes(NamedTuple):
    """Shapes to be drawn; lengths in pixels of the canvas, colours in [0, 1]."""

    centre: Float[Tensor, "... 2"]
    radius: Float[Tensor, "..."]
    turn: Float[Tensor, "... 2"]
    """Cosine and sine of its angle."""
    aspect: Float[Tensor, "..."]
    """Short by long side of an ellipse."""
    normals: Float[Tensor, "... k 2"]
    """Outward normals of a polygon's sides."""
    sides: Float[Tensor, "... k"]
    """Distance of each side from the centre, in radii."""
    hollow: Float[Tensor, "..."]
    """Width of the line that the outline is drawn with, in radii."""
    rough: Float[Tensor, "..."]
    """How far the texture moves the outline, in radii."""
    edge: Float[Tensor, "..."]
    """Width of the soft edge in pixels."""
    opacity: Float[Tensor, "..."]
    atop: Float[Tensor, "..."]
    """1 for shapes that show only on what is there already."""
    colour: Float[Tensor, "... 3"]
    grain: Float[Tensor, "... 3"]
    """Colour that the texture adds."""
    shade: Float[Tensor, "... 2"]
    """Brightness that it gains along x and y over one radius."""
    bulge: Float[Tensor, "..."]
    """Brightness that it gains from the rim to the middle."""
    shadow: Float[Tensor, "..."]
    """How much darker it makes what lies around it."""
    texture: Int[Tensor, "..."]
    offset: Int[Tensor, "... 2"]

    def to(self, device: torch.device) -> "Shapes":
        """The same shapes on another device."""
        return Shapes(*(value.to(device) for value in self))

    def at(self, rank: int, which: Int[Tensor, " m"]) -> "Shapes":
        """One shape each of some canvases."""
        return Shapes(*(value[rank].index_select(0, which) for value in self))


class Look(NamedTuple):
    """What all shapes of a rank have in common; what they lack costs nothing."""

    round_: bool
    """Ellipses; else polygons."""
    hollow: bool
    bulging: bool
    shadowy: bool


class Window(NamedTuple):
    """A part of each of m canvases."""

    x: Int[Tensor, "m w"]
    y: Int[Tensor, "m h"]
    dx: Float[Tensor, "m 1 w"]
    """Distance from the shape's centre."""
    dy: Float[Tensor, "m h 1"]
    pixels: Int[Tensor, " p"]
    """Where its pixels lie in a plane."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.x), self.y.shape[1], self.x.shape[1]


def paint(
    canvas: Float[Tensor, "4 n h w"],
    which: Int[Tensor, " m"],
    shapes: Shapes,
    side: int,
    look: Look,
    bank: Float[Tensor, "k s s"],
) -> None:
    """Draw one shape on each of some canvases (premultiplied RGBA, changed in place).

    which: numbers of the m canvases; `shapes` holds one for each.
    side: width and height of the region looked at; radii are at most half of it by `ROOM`.
    """
    window = _window(canvas, which, shapes.centre, side)
    planes = canvas.view(4, -1)
    under = planes.index_select(1, window.pixels).view(4, *window.shape)
    texture = _textured(shapes, window, bank)
    depth = _depth(shapes, window, texture, look)
    alpha = (depth * _px(1 / shapes.edge)).add_(0.5).clamp_(0, 1).mul_(_px(shapes.opacity))
    alpha.mul_(torch.addcmul(_px(1 - shapes.atop), under[3], _px(shapes.atop)))
    slope = shapes.shade / shapes.radius[:, None]
    light = window.dx * _px(slope[:, 0]) + window.dy * _px(slope[:, 1])
    if look.bulging:
        light.add_((depth * _px(1 / shapes.radius)).clamp_(0, 1).mul_(_px(shapes.bulge)))
    if look.shadowy:
        dark = (depth * _px(4 / shapes.radius)).add_(1).clamp_(0, 1)
        under[:3].mul_(dark.mul_(_px(-shapes.shadow)).add_(1))
    for k in range(3):
        colour = torch.addcmul(light, texture, _px(shapes.grain[:, k]))
        under[k].lerp_(colour.add_(_px(shapes.colour[:, k])), alpha)
    under[3].add_(alpha).addcmul_(alpha, under[3] - alpha, value=-1)
    for plane, values in zip(planes, under.view(4, -1), strict=True):
        plane.scatter_(0, window.pixels, values)


def _px(value: Float[Tensor, " m"]) -> Float[Tensor, "m 1 1"]:
    return value[:, None, None]


def _window(
    canvas: Float[Tensor, "4 n h w"],
    which: Int[Tensor, " m"],
    centre: Float[Tensor, "m 2"],
    side: int,
) -> Window:
    height, width = canvas.shape[2:]
    rows, columns = min(side, height), min(side, width)
    across = torch.arange(columns, device=canvas.device)
    down = torch.arange(rows, device=canvas.device)
    x = (centre[:, :1] - columns / 2).round().clamp(0, width - columns).long() + across
    y = (centre[:, 1:] - rows / 2).round().clamp(0, height - rows).long() + down
    start = which[:, None] * (height * width) + y * width
    return Window(
        x=x,
        y=y,
        dx=(x - centre[:, :1])[:, None, :],
        dy=(y - centre[:, 1:])[:, :, None],
        pixels=(start[:, :, None] + x[:, None, :]).view(-1),
    )


def _textured(
    shapes: Shapes, window: Window, bank: Float[Tensor, "k s s"]
) -> Float[Tensor, "m h w"]:
    u = (window.x + shapes.offset[:, :1]) % SIZE
    v = (window.y + shapes.offset[:, 1:]) % SIZE
    row = (shapes.texture[:, None] * SIZE + v) * SIZE
    index = (row[:, :, None] + u[:, None, :]).view(-1)
    return bank.view(-1).index_select(0, index).view(window.shape)


def _depth(
    shapes: Shapes, window: Window, texture: Float[Tensor, "m h w"], look: Look
) -> Float[Tensor, "m h w"]:
    """How far each pixel lies inside the outline, in pixels; negative outside."""
    radius = _px(shapes.radius)
    depth = _ellipse(shapes, window) if look.round_ else _polygon(shapes, window)
    depth.addcmul_(texture, radius * _px(shapes.rough))
    if look.hollow:
        line = radius * _px(shapes.hollow) / 2
        depth = line - (depth - line).abs_()
    return depth


def _ellipse(shapes: Shapes, window: Window) -> Float[Tensor, "m h w"]:
    """Depth in an ellipse: its implicit function by the length of the gradient."""
    cosine, sine = _px(shapes.turn[:, 0]), _px(shapes.turn[:, 1])
    aspect = _px(shapes.aspect)
    u = (window.dx * cosine + window.dy * sine).square_()
    v = (window.dy * (cosine / aspect) - window.dx * (sine / aspect)).square_()
    slope = torch.addcmul(u, v, 1 / aspect**2).add_(1e-3).rsqrt_()
    norm = u.add_(v).add_(1e-3).sqrt_()
    return (_px(shapes.radius) - norm).mul_(norm).mul_(slope)


def _polygon(shapes: Shapes, window: Window) -> Float[Tensor, "m h w"]:
    """Depth in a convex polygon: the distance from its nearest side."""
    depth = torch.empty(0)
    for k in range(shapes.sides.shape[-1]):
        normal = shapes.normals[:, k]
        left = _px(shapes.radius * shapes.sides[:, k]) - window.dx * _px(normal[:, 0])
        side = left - window.dy * _px(normal[:, 1])
        depth = side if k == 0 else torch.minimum(depth, side, out=depth)
    return depth
