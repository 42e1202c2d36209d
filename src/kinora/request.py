"""What to make: one request, checked before anything heavy is loaded.

No torch here: command line, server and library share this class, and a wrong value is refused at
once.
"""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from kinora.arguments import as_choice, as_integer, as_number, as_pair, as_size, expect
from kinora.config import CONSISTENCY_STEPS, MAX_CONSISTENCY_STEPS, ModelConfig
from kinora.errors import RequestError

__all__ = [
    "FITS",
    "QUALITIES",
    "SAMPLERS",
    "SCHEDULES",
    "Photo",
    "Plan",
    "Request",
    "agree",
    "draw_seed",
]

Photo = Any
"""A path, the bytes of an image file, a PIL image, or an array or tensor, [h, w, 3] or [3, h, w],
of bytes or of floats from 0 to 1."""

SAMPLERS: Final = ("euler", "heun", "dpmpp-2m", "adams", "dpmpp-2m-sde", "consistency")
SCHEDULES: Final = ("karras", "exponential", "ays", "consistency")
FITS: Final = ("crop", "pad", "stretch")

QUALITIES: Final[dict[str, dict[str, Any]]] = {
    "exact": {},
    "balanced": {"sampler": "adams", "steps": 10, "guidance_every": 2},
    "fast": {"sampler": "adams", "steps": 8, "guidance_every": 2},
    "draft": {"sampler": "adams", "steps": 5, "guidance_every": 2},
}
"""What each quality asks for where a request doesn't, chosen by their errors, which
docs/performance.md has: balanced comes as near to the solution as exact, in fewer calls."""

MAX_SIDE: Final = 4096
SHARED: Final = (
    "frames", "size", "steps", "sampler", "schedule", "guidance_interval", "guidance_every",
    "inner_every", "fit", "decode_chunk",
)  # fmt: skip
"""What the requests of one batch must agree on."""

INTEGERS: Final = {
    "frames": (1, 256, "frames"),
    "steps": (1, 1000, "steps"),
    "fps": (1, 60, "frames a second"),
    "motion": (0, 255, ""),
    "seed": (0, 2**63 - 1, ""),
    "decode_chunk": (1, 256, "frames"),
    "guidance_every": (1, 100, "calls"),
    "inner_every": (1, 100, "calls"),
}
"""Lowest and highest value, and what is counted."""
PAIRS: Final = {
    "guidance": (100, "two scales such as 1:3"),
    "guidance_interval": (1_000_000, "levels such as 0.1:50"),
}
"""Highest value of each of two numbers, and an example."""
CHOICES: Final = {
    "quality": tuple(QUALITIES),
    "sampler": SAMPLERS,
    "schedule": SCHEDULES,
    "fit": FITS,
}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One clip to make of one photo. What is None becomes the model's own default."""

    image: Photo
    frames: int | None = None
    """Length, 1–256."""
    size: tuple[int, int] | None = None
    """Width and height in pixels, multiples of the model's `size_multiple`."""
    steps: int | None = None
    """Noise levels of the sampler, 1–1000. The consistency sampler takes 1–20, 4 when left out."""
    fps: int | None = None
    """Frames a second that the viewer sees, 1–60."""
    motion: int | None = None
    """How much should move, 0–255."""
    noise_aug: float | None = None
    """Deviation of the noise added to the photo (pixels in [-1, 1]), 0–1."""
    guidance: tuple[float, float] | None = None
    """Guidance scale of the first and of the last frame, each 0–100."""
    seed: int | None = None
    """0 to 2⁶³ − 1; drawn when left out."""
    quality: str | None = None
    """One of `QUALITIES`: how near the clip comes to the one of a sampler in its default steps,
    "exact" when left out. It is a set of choices for the fields below that are left out."""
    guidance_interval: tuple[float, float] | None = None
    """Lowest and highest noise level at which there is guidance; at all of them when left out.
    Beyond them half the work is saved, and the clip changes."""
    guidance_every: int | None = None
    """At which calls of the network guidance is computed anew, 1–100: at every one, every second
    … In between, the last one is used again: half the work is saved, and the clip changes."""
    inner_every: int | None = None
    """At which calls the network's inner blocks are computed anew, 1–100; likewise."""
    sampler: str | None = None
    """One of `SAMPLERS`."""
    schedule: str | None = None
    """Where its noise levels lie: one of `SCHEDULES`; "consistency" for the sampler of that name,
    else "karras" when left out."""
    fit: str | None = None
    """How a photo of another shape is fitted: one of `FITS`."""
    decode_chunk: int | None = None
    """Frames decoded at a time; None decodes the whole clip at once, which is the definition of
    right: chunks change pixels at their borders."""

    def __post_init__(self) -> None:
        for name, (low, high, unit) in INTEGERS.items():
            if getattr(self, name) is not None:
                self._put(name, as_integer(name, getattr(self, name), low, high, unit))
        if self.noise_aug is not None:
            self._put("noise_aug", as_number("noise_aug", self.noise_aug, 0, 1))
        for name, (highest, example) in PAIRS.items():
            if getattr(self, name) is not None:
                pair = as_pair(name, getattr(self, name), example)
                self._put(name, tuple(float(as_number(name, value, 0, highest)) for value in pair))
        if self.size is not None:
            self._put("size", as_size("size", self.size, MAX_SIDE))
        for name, choices in CHOICES.items():
            if getattr(self, name) is not None:
                as_choice(name, getattr(self, name), choices)
        self._check_together()

    def _check_together(self) -> None:
        """Raise RequestError where fields contradict one another."""
        low, high = self.guidance_interval or (0, 0)
        if low > high:
            raise RequestError(f"guidance_interval {low}:{high}: the lower level comes first")
        if self.distilled and self.steps is not None and self.steps > MAX_CONSISTENCY_STEPS:
            raise RequestError(
                f"steps {self.steps}: a consistency model takes 1 to {MAX_CONSISTENCY_STEPS} "
                f"steps, {CONSISTENCY_STEPS} when left out"
            )

    def _put(self, name: str, value: object) -> None:
        """Replace a field by what it means, such as numpy's 25 by 25."""
        object.__setattr__(self, name, value)

    @property
    def distilled(self) -> bool:
        """Whether sampler or noise levels are a consistency model's, which takes a few steps."""
        return "consistency" in (self.sampler, self.schedule)

    def resolved(self, config: ModelConfig, photo_size: tuple[int, int]) -> "Plan":
        """What this request comes to for a model and a photo: every field filled in.

        config: the model that will run it.
        photo_size: width and height of the photo, which picks the orientation where no size is
            asked for.
        Raises RequestError when the model can't make this size.
        """
        expect("config", config, ModelConfig, "a ModelConfig, such as kinora.SVD_XT")
        photo_size = as_size("photo_size", photo_size)
        size = self.size or default_size(config, photo_size)
        multiple = config.size_multiple
        if any(side % multiple for side in size):
            near = tuple(max(multiple, round(side / multiple) * multiple) for side in size)
            raise RequestError(
                f"size {size[0]}x{size[1]}: width and height must be multiples of {multiple} for "
                f"{config.name}; the nearest is {near[0]}x{near[1]}"
            )
        quality = _or(self.quality, "exact")
        chosen = QUALITIES[quality]
        sampler = _or(self.sampler, chosen.get("sampler", "euler"))
        steps = CONSISTENCY_STEPS if self.distilled else chosen.get("steps", config.steps)
        return Plan(
            image=self.image,
            frames=_or(self.frames, config.frames),
            size=size,
            steps=_or(self.steps, steps),
            fps=_or(self.fps, config.fps),
            motion=_or(self.motion, config.motion),
            noise_aug=float(_or(self.noise_aug, config.noise_aug)),
            guidance=_or(self.guidance, config.guidance),
            seed=draw_seed() if self.seed is None else self.seed,
            quality=quality,
            guidance_interval=_or(self.guidance_interval, chosen.get("guidance_interval")),
            guidance_every=_or(self.guidance_every, chosen.get("guidance_every", 1)),
            inner_every=_or(self.inner_every, chosen.get("inner_every", 1)),
            sampler=sampler,
            schedule=_or(self.schedule, _schedule(sampler, chosen)),
            fit=_or(self.fit, "crop"),
            decode_chunk=self.decode_chunk,
        )

    def cautions(self, config: ModelConfig) -> list[str]:
        """Sentences on what is allowed but lies outside what the model was trained for."""
        found: list[str] = []
        if self.frames is not None and self.frames > config.frames:
            found.append(
                f"{self.frames} frames: {config.name} was trained on {config.frames}; "
                "longer clips lose coherence"
            )
        if self.size is not None and math.prod(self.size) < 0.5 * config.width * config.height:
            found.append(
                f"size {self.size[0]}x{self.size[1]}: {config.name} was trained at "
                f"{config.width}x{config.height}; much smaller clips come out worse"
            )
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A request with nothing left open; its fields mean what the request's do."""

    image: Photo
    frames: int
    size: tuple[int, int]
    steps: int
    fps: int
    motion: int
    noise_aug: float
    guidance: tuple[float, float]
    seed: int
    quality: str
    guidance_interval: tuple[float, float] | None
    guidance_every: int
    inner_every: int
    sampler: str
    schedule: str
    fit: str
    decode_chunk: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for the recipe; the photo is told by its file name only."""
        values: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name != "image"
        }
        given = cast("object", self.image)
        name = Path(given).name if isinstance(given, str | Path) else None
        return {"image": name, **values}


def draw_seed() -> int:
    """A seed for those who name none; short enough to be typed again."""
    return secrets.randbelow(2**32)


def agree(plans: Sequence[Plan]) -> Plan:
    """The first plan, after a check that all want the same of what a batch shares.

    Raises RequestError naming what differs.
    """
    if not plans:
        raise RequestError("no request: a batch needs at least one photo")
    for name in SHARED:
        values = {getattr(plan, name) for plan in plans}
        if len(values) > 1:
            raise RequestError(
                f"{name} differs within a batch ({', '.join(map(str, values))}): "
                "ask for one value, or run the photos one after the other"
            )
    return plans[0]


def default_size(config: ModelConfig, photo_size: tuple[int, int]) -> tuple[int, int]:
    """The model's trained size, turned the way the photo lies; a near-square photo gets a square
    of about as many pixels."""
    long, short = max(config.width, config.height), min(config.width, config.height)
    multiple = config.size_multiple
    side = round(math.sqrt(long * short) / multiple) * multiple
    shapes = ((long, short), (short, long), (side, side))
    ratio = math.log(photo_size[0] / photo_size[1])
    return min(shapes, key=lambda s: abs(math.log(s[0] / s[1]) - ratio))


def _schedule(sampler: str, chosen: dict[str, Any]) -> str:
    return "consistency" if sampler == "consistency" else chosen.get("schedule", "karras")


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
