"""Clips of scenes seen by a moving camera, with their exact speed."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor

from kinora.synthetic.camera import Course, Tracks, draw_course
from kinora.synthetic.chance import Chance
from kinora.synthetic.config import SceneConfig
from kinora.synthetic.layers import paint_layers
from kinora.synthetic.style import draw_style
from kinora.types import Frames, PerClip

__all__ = ["ClipBatch", "make_clips"]

PROBES = 16
"""Points along a side at which speed and flow are measured."""
SLOW = 0.25
"""Part of the top speed up to which the camera may stand still before a thing that moves."""
ROUNDS = 6
"""Corrections of the strength until the speed is the one that was asked for."""


class ClipBatch(NamedTuple):
    """Clips and what is known about them."""

    frames: Frames
    motion: PerClip
    """0–255: 255 × speed / max_speed."""
    fps: PerClip
    speed: PerClip
    """Mean speed over the picture and the clip, in fractions of the width a second."""
    tracks: Tracks
    """How each layer moves; where layers are is not told, only that the first is opaque."""
    flow: Float[Tensor, "b t 2 y x"]
    """How far (right, down) what is seen has come since frame 0, in fractions of the width, at the
    middles of PROBES × PROBES equal parts of the picture."""


def make_clips(
    config: SceneConfig, batch: int, seed: int, device: str | torch.device = "cpu"
) -> ClipBatch:
    """Make clips of nothing but a seed: the same arguments give the same clips on a device.

    config: size, content and motion; what is seen in frame 0 does not depend on the motion.
    batch: how many clips.
    """
    device = torch.device(device)
    chance = Chance(seed)
    style = draw_style(chance, batch)
    canvas = paint_layers(config, chance, style, device)
    place = torch.complex(*chance.uniform(2, batch, config.layers, 1, low=-1.0, high=1.0).unbind())
    place = (place / config.width).to(device)
    fps = torch.tensor(config.fps).float()[chance.integer(len(config.fps), batch)]
    low, high = config.motion
    asked = chance.uniform(batch, low=low, high=high) / 255 * config.max_speed
    asked = asked * (1 - chance.event(config.static, batch))
    course = draw_course(config, chance, fps, asked < SLOW * config.max_speed)
    course = Course(*(value.to(device) for value in course))
    asked, fps = asked.to(device), fps.to(device)
    strength, speed = _meet(config, canvas, place, course, asked, fps)
    tracks = course.tracks(strength)
    tracks = Tracks(*(value[..., : config.frames] for value in tracks))
    return ClipBatch(
        frames=_render(config, canvas, place, tracks),
        motion=(255 * speed / config.max_speed).clamp(0, 255),
        fps=fps,
        speed=speed,
        tracks=tracks,
        flow=_flow(config, canvas, place, tracks),
    )


def _grid(width: int, height: int, ratio: float, device: torch.device) -> Complex[Tensor, "h w"]:
    """Centres of pixels; the view is 1 wide and `ratio` high, its middle is 0."""
    x = (torch.arange(width, device=device) + 0.5) / width - 0.5
    y = ((torch.arange(height, device=device) + 0.5) / height - 0.5) * ratio
    return torch.complex(x.expand(height, width), y[:, None].expand(height, width))


def _look(
    config: SceneConfig,
    canvas: Float[Tensor, "b c h w"],
    at: Complex[Tensor, "b t y x"],
    place: Complex[Tensor, "b 1"],
) -> Float[Tensor, "b c t y x"]:
    """Read a layer at points given as they are seen in frame 0."""
    at = at + place[..., None, None]
    reach = (1 + 2 * config.margin) / 2
    grid = torch.stack([at.real / reach, at.imag / (reach * config.height / config.width)], -1)
    out = F.grid_sample(
        canvas,
        rearrange(grid, "b t y x d -> b (t y) x d"),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    return rearrange(out, "b c (t y) x -> b c t y x", t=at.shape[1])


def _meet(
    config: SceneConfig,
    canvas: Float[Tensor, "l b 4 h w"],
    place: Complex[Tensor, "b l 1"],
    course: Course,
    asked: Float[Tensor, " b"],
    fps: Float[Tensor, " b"],
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Find the strength of movement that gives the asked speed, and the speed that it does give."""
    grid = _grid(PROBES, PROBES, config.height / config.width, canvas.device)
    strength = asked.clone()
    speed = torch.zeros_like(asked)
    for k in range(ROUNDS):
        speed = _speed(config, canvas, place, course.tracks(strength), grid) * fps
        if k < ROUNDS - 1:
            strength = strength * (asked / speed.clamp(min=1e-9)).clamp(0.1, 20)
    return strength, speed


def _speed(
    config: SceneConfig,
    canvas: Float[Tensor, "l b 4 h w"],
    place: Complex[Tensor, "b l 1"],
    tracks: Tracks,
    grid: Complex[Tensor, "y x"],
) -> Float[Tensor, " b"]:
    """Mean way from a frame to the next of what is visible at each point."""
    scale, shift = (value[..., None, None] for value in tracks)
    origins = (grid - shift[:, :, :-1]) * (1 / scale[:, :, :-1])
    steps = (origins * scale[:, :, 1:] + shift[:, :, 1:] - grid).abs()
    return _seen(config, canvas, place, origins, steps).mean((1, 2, 3))


def _flow(
    config: SceneConfig,
    canvas: Float[Tensor, "l b 4 h w"],
    place: Complex[Tensor, "b l 1"],
    tracks: Tracks,
) -> Float[Tensor, "b t 2 y x"]:
    """How far what is visible at each point has come since frame 0."""
    grid = _grid(PROBES, PROBES, config.height / config.width, canvas.device)
    scale, shift = (value[..., None, None] for value in tracks)
    origins = (grid - shift) * (1 / scale)
    flow = _seen(config, canvas, place, origins, grid - origins)
    return torch.stack([flow.real, flow.imag], dim=2)


def _seen(
    config: SceneConfig,
    canvas: Float[Tensor, "l b 4 h w"],
    place: Complex[Tensor, "b l 1"],
    origins: Complex[Tensor, "b l t y x"],
    values: Tensor,
) -> Tensor:
    """Of values of each layer [b, l, t, y, x], those of what is visible: the nearer's first.

    origins: where the layers' points that are seen at the grid's were in frame 0.
    """
    visible = torch.ones((), device=canvas.device)
    total = torch.zeros((), device=canvas.device)
    for k in reversed(range(config.layers)):
        cover = torch.ones((), device=canvas.device)
        if k > 0:
            cover = _look(config, canvas[k, :, 3:], origins[:, k], place[:, k])[:, 0]
        total = total + visible * cover * values[:, k]
        visible = visible * (1 - cover)
    return total


def _render(
    config: SceneConfig,
    canvas: Float[Tensor, "l b 4 h w"],
    place: Complex[Tensor, "b l 1"],
    tracks: Tracks,
) -> Frames:
    """Look at all layers, the nearer over the farther."""
    ratio = config.height / config.width
    grid = _grid(config.width, config.height, ratio, canvas.device)
    picture = torch.zeros((), device=canvas.device)
    for k in range(config.layers):
        scale, shift = (value[:, k, :, None, None] for value in tracks)
        seen = _look(config, canvas[k], (grid - shift) * (1 / scale), place[:, k])
        picture = seen[:, :3] + picture * (1 - seen[:, 3:])
    return rearrange(picture * 2 - 1, "b c t y x -> b t c y x").clamp(-1, 1).contiguous()
