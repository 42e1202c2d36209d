"""One clip that somebody asked for, as the database has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from kinora.request import Photo, Request

__all__ = ["ENDED", "Job", "Order", "State", "folder_of", "request_of"]

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: Final[tuple[State, ...]] = ("succeeded", "failed", "cancelled")


PAIRS: Final = frozenset({"size", "guidance", "guidance_interval"})


def folder_of(id: str) -> str:
    """Where all files of a job lie, its photo too."""
    return f"jobs/{id[:2]}/{id}"


def request_of(asked: Mapping[str, Any], image: Photo = None) -> Request:
    """What was asked for, from JSON, which has lists for pairs. Raises RequestError."""
    given = dict(asked)
    for name in PAIRS & given.keys():
        if isinstance(given[name], list):
            given[name] = tuple(given[name])
    return Request(image=image, **given)


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a client asks for."""

    id: str
    client: str
    door: str
    """Which protocol it comes by."""
    model: str
    asked: dict[str, Any]
    """Fields of `kinora.Request`, as JSON; the seed among them."""
    notes: dict[str, Any]
    """What the protocol wants back."""
    keep: int
    """Seconds after its end."""
    key: str | None = None
    """The client's own name for it, which makes asking again harmless."""
    digest: str | None = None
    """Of what is asked for under that name."""
    bytes: int = 0
    """That its files take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job(Order):
    """An order and what became of it so far."""

    state: State
    turn: int
    """Its place in the queue: the least is next."""
    created: float
    """Seconds since 1970, by the database's clock; likewise the other times."""
    started: float | None
    finished: float | None
    executor: str | None
    """The worker that has it, or had it last."""
    binding: str | None
    """The weights and the precision that it is computed with, once a worker has taken it."""
    deaths: int
    """Of workers in the midst of it."""
    cancelling: bool
    hidden: bool
    """Whether it is to go as soon as it has ended."""
    phase: str | None
    """"encoding", "sampling" or "decoding"."""
    step: int
    steps: int
    seconds_left: float | None
    previews: int
    """How many there have been."""
    error: dict[str, str] | None
    """A code for programs, and a message for people."""
    result: dict[str, Any] | None
    """Frames, fps, size and recipe of the clip."""

    @property
    def folder(self) -> str:
        return folder_of(self.id)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def expires(self) -> float | None:
        return None if self.finished is None else self.finished + self.keep

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        if self.state == "succeeded":
            return 1.0
        return self.step / self.steps if self.steps else 0.0
