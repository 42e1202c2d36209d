"""What a layer is drawn of: overlapping shapes, each with an outline, a colour and a texture."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kinora.synthetic.textures import SIZE

__all__ = ["SIDES", "Shapes", "paint"]

SIDES = 5
"""Half-planes that bound a polygon."""


class Shapes(NamedTuple):
    """One shape on each of n canvases; lengths in pixels of the canvas, colours in [0, 1]."""

    centre: Float[Tensor, "n 2"]
    radius: Float[Tensor, " n"]
    turn: Float[Tensor, "n 2"]
    """Cosine and sine of its angle."""
    aspect: Float[Tensor, " n"]
    """Short by long side of an ellipse."""
    normals: Float[Tensor, "n k 2"]
    """Outward normals of a polygon's sides, in the shape's own turned coordinates."""
    sides: Float[Tensor, "n k"]
    """Distance of each side from the centre, in radii."""
    hollow: Float[Tensor, " n"]
    """Width of the outline in radii; 1 and more for a filled shape."""
    rough: Float[Tensor, " n"]
    """How far the texture moves the outline, in radii."""
    edge: Float[Tensor, " n"]
    """Width of the soft edge in pixels."""
    opacity: Float[Tensor, " n"]
    atop: Float[Tensor, " n"]
    """1 for shapes that show only on what is there already."""
    colour: Float[Tensor, "n 3"]
    grain: Float[Tensor, "n 3"]
    """Colour that the texture adds."""
    shade: Float[Tensor, "n 2"]
    """Brightness that it gains along x and y over one radius."""
    bulge: Float[Tensor, " n"]
    """Brightness that it gains from the rim to the middle."""
    shadow: Float[Tensor, " n"]
    """How much darker it makes what lies around it."""
    texture: Int[Tensor, " n"]
    offset: Int[Tensor, "n 2"]

    def to(self, device: torch.device) -> "Shapes":
        """The same shapes on another device."""
        return Shapes(*(value.to(device) for value in self))


def paint(
    canvas: Float[Tensor, "n h w 4"],
    shapes: Shapes,
    window: tuple[int, int],
    round_: bool,
    bank: Float[Tensor, "k s s"],
) -> None:
    """Draw one shape on each canvas (premultiplied RGBA, changed in place).

    window: height and width of the region looked at; a shape must not reach further than half of
        it from its centre.
    round_: ellipses if true, polygons if false.
    """
    n, height, width, _ = canvas.shape
    rows, columns = min(window[0], height), min(window[1], width)
    limit = canvas.new_tensor([width - columns, height - rows])
    half = canvas.new_tensor([columns / 2, rows / 2])
    corner = (shapes.centre - half).round().clamp(min=0).minimum(limit).long()
    x = corner[:, 0, None] + torch.arange(columns, device=canvas.device)
    y = corner[:, 1, None] + torch.arange(rows, device=canvas.device)
    texture = _textured(shapes, x, y, bank)
    dx = (x - shapes.centre[:, 0, None])[:, None, :]
    dy = (y - shapes.centre[:, 1, None])[:, :, None]
    inside = _depth(shapes, dx, dy, texture, round_)
    alpha = (inside / _px(shapes.edge) + 0.5).clamp_(0, 1)

    flat = canvas.view(n * height * width, 4)
    start = torch.arange(n, device=canvas.device)[:, None, None] * (height * width)
    index = (start + y[:, :, None] * width + x[:, None, :]).view(-1)
    under = flat[index].view(n, rows, columns, 4)

    radius = _px(shapes.radius)
    light = dx * _px(shapes.shade[:, 0] / shapes.radius) + dy * _px(
        shapes.shade[:, 1] / shapes.radius
    )
    light = light + _px(shapes.bulge) * (inside / radius).clamp(0, 1)
    colour = shapes.colour[:, None, None] + light[..., None]
    colour = (colour + texture[..., None] * shapes.grain[:, None, None]).clamp_(0, 1)
    dark = 1 - _px(shapes.shadow * shapes.opacity) * (1 + 2 * inside / radius).clamp(0, 1)
    cover = under[..., 3]
    alpha = alpha * _px(shapes.opacity) * (1 - _px(shapes.atop) * (1 - cover))
    rgb = under[..., :3] * (dark * (1 - alpha))[..., None] + colour * alpha[..., None]
    opaque = cover + alpha * (1 - cover)
    flat[index] = torch.cat([rgb, opaque[..., None]], -1).view(-1, 4)


def _px(value: Float[Tensor, " n"]) -> Float[Tensor, "n 1 1"]:
    return value[:, None, None]


def _textured(
    shapes: Shapes,
    x: Int[Tensor, "n w"],
    y: Int[Tensor, "n h"],
    bank: Float[Tensor, "k s s"],
) -> Float[Tensor, "n h w"]:
    u = (x + shapes.offset[:, 0, None]) % SIZE
    v = (y + shapes.offset[:, 1, None]) % SIZE
    row = (shapes.texture[:, None] * SIZE + v) * SIZE
    return bank.view(-1)[row[:, :, None] + u[:, None, :]]


def _depth(
    shapes: Shapes,
    dx: Float[Tensor, "n 1 w"],
    dy: Float[Tensor, "n h 1"],
    texture: Float[Tensor, "n h w"],
    round_: bool,
) -> Float[Tensor, "n h w"]:
    """How far each pixel lies inside the outline, in pixels; negative outside."""
    radius = _px(shapes.radius)
    cosine, sine = _px(shapes.turn[:, 0]), _px(shapes.turn[:, 1])
    u = dx * cosine + dy * sine
    v = dy * cosine - dx * sine
    if round_:
        aspect = _px(shapes.aspect)
        norm = torch.sqrt(u * u + (v / aspect) ** 2 + 1e-6)
        slope = torch.sqrt(u * u + v * v / aspect**4 + 1e-6) / norm
        depth = (radius - norm) / slope
    else:
        depth = radius * 4
        for k in range(shapes.sides.shape[1]):
            side = u * _px(shapes.normals[:, k, 0]) + v * _px(shapes.normals[:, k, 1])
            depth = torch.minimum(depth, radius * _px(shapes.sides[:, k]) - side)
    depth = depth + texture * (radius * _px(shapes.rough))
    line = radius * _px(shapes.hollow) / 2
    return torch.where(line < radius / 2, line - (depth - line).abs(), depth)
