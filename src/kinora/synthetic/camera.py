"""How layers move past the view: similarity transforms, written as complex numbers.

A point of a layer that is seen at p₀ in frame 0 is seen at p = s·p₀ + d in another frame; s turns
and scales, d shifts. Coordinates are fractions of the view's width, from the middle.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from kinora.synthetic.chance import Chance
from kinora.synthetic.config import SceneConfig

__all__ = ["Course", "Tracks", "draw_course"]


class Tracks(NamedTuple):
    """Where every layer is in every frame."""

    scale: Complex[Tensor, "b l t"]
    shift: Complex[Tensor, "b l t"]


class Course(NamedTuple):
    """What moves and which way, at unit strength."""

    near: Float[Tensor, "b l"]
    """Parallax: how much of the camera's shift and zoom a layer shows."""
    pan: Complex[Tensor, " b"]
    zoom: Float[Tensor, " b"]
    roll: Float[Tensor, " b"]
    pivot: Complex[Tensor, " b"]
    own: Complex[Tensor, "b l"]
    """Shift of a thing that moves by itself."""
    own_turn: Complex[Tensor, "b l"]
    """Its growth and turn."""
    own_pivot: Complex[Tensor, "b l"]
    time: Float[Tensor, "b t"]
    """How far the movement has come: 0 in frame 0, and gently uneven seconds then."""

    def tracks(self, strength: Float[Tensor, " b"]) -> Tracks:
        """Carry the movement out at a strength."""
        time = (self.time * strength[:, None])[:, None]
        near = self.near[..., None]
        rate = torch.complex(
            self.zoom[:, None, None] * near * time, self.roll[:, None, None] * time
        )
        scale = torch.exp(rate)
        pivot = self.pivot[:, None, None]
        shift = self.pan[:, None, None] * near * time + pivot * (1 - scale)
        own_scale = torch.exp(self.own_turn[..., None] * time)
        own_shift = self.own[..., None] * time + self.own_pivot[..., None] * (1 - own_scale)
        return Tracks(scale * own_scale, scale * own_shift + shift)


def draw_course(
    config: SceneConfig, chance: Chance, fps: Float[Tensor, " b"], slow: Bool[Tensor, " b"]
) -> Course:
    """Draw the kind and direction of the movement of each clip.

    slow: clips in which the camera may stand still while something moves before it; faster ones
        would throw it out of the picture.
    """
    batch, layers = len(fps), config.layers
    kind = chance.pick(config.kinds, batch)
    pan, zoom = (kind == 0).float(), (kind == 1).float()
    mixed = (kind == 2).float()
    along = _direction(chance, batch)
    side = torch.where(chance.event(0.5, batch) > 0, 1.0, -1.0)
    depth = chance.uniform(batch, layers, low=0.15, high=0.8).cumsum(1)
    near = torch.where(chance.event(0.2, batch, 1) > 0, torch.ones(()), depth)
    moves = torch.zeros(batch, layers)
    still = torch.zeros(batch)
    if layers > 1:
        moves[:, -1] = chance.event(config.objects, batch)
        still = moves[:, -1] * chance.event(0.25, batch) * slow
    pivot = torch.complex(*chance.uniform(2, batch, low=-0.25, high=0.25).unbind())
    own = _direction(chance, batch)[:, None] * (0.3 + chance.uniform(batch, 1)) * moves
    turn = torch.complex(*(chance.normal(2, batch, 1) * torch.tensor([0.3, 1.0])[:, None, None]))
    moving = 1 - still
    course = Course(
        near=near,
        pan=along * (pan + 0.15 * zoom + 0.5 * mixed * chance.uniform(batch)) * moving,
        zoom=side * (zoom + 0.05 * pan + mixed * chance.normal(batch)) * moving,
        roll=chance.normal(batch) * (mixed + 0.03) * moving,
        pivot=pivot,
        own=own,
        own_turn=turn * chance.event(0.5, batch, 1) * moves,
        own_pivot=pivot[:, None].expand(-1, layers),
        time=_eased(chance, config, fps),
    )
    return _simplified(course, along, fps) if config.simple else course


def _simplified(course: Course, along: Complex[Tensor, " b"], fps: Float[Tensor, " b"]) -> Course:
    """The same course, panning along the side that is nearest to a direction, evenly."""
    quarter = (along.angle() / (math.pi / 2)).round() * (math.pi / 2)
    return course._replace(
        pan=torch.complex(quarter.cos(), quarter.sin()),
        zoom=torch.zeros_like(course.zoom),
        roll=torch.zeros_like(course.roll),
        time=torch.arange(course.time.shape[1]) / fps[:, None],
    )


def _direction(chance: Chance, batch: int) -> Complex[Tensor, " b"]:
    angle = chance.uniform(batch) * (2 * math.pi)
    return torch.complex(angle.cos(), angle.sin())


def _eased(chance: Chance, config: SceneConfig, fps: Float[Tensor, " b"]) -> Float[Tensor, "b t"]:
    """Time that runs evenly in half of the clips, else speeds up and slows down gently."""
    batch = len(fps)
    frames = max(config.frames, 2)
    seconds = torch.arange(frames) / fps[:, None]
    depth = chance.event(0.5, batch) * chance.uniform(batch, high=0.6)
    pace = chance.uniform(batch, low=0.5, high=1.0) * math.pi * fps / frames
    phase = chance.uniform(batch) * (2 * math.pi)
    wave = torch.sin(pace[:, None] * seconds + phase[:, None]) - phase.sin()[:, None]
    return seconds + (depth / pace)[:, None] * wave
