"""What the made-up clips look like and how they move."""

from dataclasses import dataclass

from kinora.errors import RequestError

__all__ = ["SceneConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneConfig:
    """Size, content and motion of synthetic clips.

    Raises RequestError when a value can't be meant.
    """

    width: int = 64
    height: int = 64
    frames: int = 8
    layers: int = 3
    """Depth layers: an opaque background and nearer, partly transparent ones."""
    shapes: int = 120
    """Shapes drawn in each layer, most of them small; a calm scene shows only some."""
    max_speed: float = 0.12
    """Mean speed over the picture at motion 255, in fractions of the width a second."""
    motion: tuple[float, float] = (0.0, 255.0)
    """Range of the motion that clips are drawn from, evenly."""
    fps: tuple[int, ...] = (5, 6, 7, 8, 10, 12)
    """Frame rates that a clip's is drawn from."""
    static: float = 0.04
    """Share of clips in which nothing moves, besides those drawn with a motion of 0."""
    kinds: tuple[float, float, float] = (0.6, 0.25, 0.15)
    """Shares of pans, zooms, and mixtures of both with roll."""
    simple: bool = False
    """Whether all moves are pans straight along the sides of the picture, at an even pace: what is
    easiest to learn. `kinds` is then left aside."""
    objects: float = 0.4
    """Share of clips whose nearest layer is something that moves by itself."""
    defocus: float = 0.15
    """Share of clips whose background is out of focus."""
    margin: float = 0.25
    """How far layers reach beyond the view on every side, in fractions of the view; beyond that
    they are mirrored."""
    oversample: float = 1.5
    """Pixels of a layer for one of the view, along a side."""

    def __post_init__(self) -> None:
        sides = (self.width, self.height, self.frames, self.layers, *self.fps)
        low, high = self.motion
        shares = (self.static, self.objects, self.defocus, *self.kinds)
        checks = (
            (min(sides, default=0) >= 1 and len(self.fps) > 0, "sizes, layers and fps must be ≥ 1"),
            (self.shapes >= 0, "shapes must not be negative"),
            (self.max_speed > 0, "max_speed must be above 0"),
            (0 <= low <= high <= 255, "motion must be a range within 0–255"),
            (all(0 <= s <= 1 for s in shares), "shares must be from 0 to 1"),
            (sum(self.kinds) > 0, "at least one kind of movement must have a share"),
            (self.margin >= 0 and self.oversample >= 1, "margin must be ≥ 0, oversample ≥ 1"),
        )
        for right, message in checks:
            if not right:
                raise RequestError(f"synthetic scenes: {message}; got {self}")

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of a layer in its own pixels."""
        scale = self.oversample * (1 + 2 * self.margin)
        return max(8, round(self.height * scale)), max(8, round(self.width * scale))
