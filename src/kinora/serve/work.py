"""A worker's making of clips. What took long to compute lasts as soon as it is there."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from threading import Event as Flag
from threading import Lock
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import structlog
from PIL import Image

from kinora.clip import Clip
from kinora.events import Decoded, Done, Encoded, Event, Sampled
from kinora.media.picture import MAX_PIXELS
from kinora.request import Request
from kinora.runtime import Journal
from kinora.serve.errors import Busy, LeaseLost, is_full
from kinora.serve.failures import told
from kinora.serve.files import Files
from kinora.serve.inspecting import Inspector
from kinora.serve.job import Job, State, request_of
from kinora.serve.journal import FileJournal
from kinora.serve.leases import Lease, Leases
from kinora.serve.retry import patiently
from kinora.serve.stills import jpeg, sheet, small
from kinora.types import Latents

__all__ = ["Maker", "Work"]

LOOK = 0.1
"""Seconds between two notes of how far a job is, at least."""
SHARE = 0.1
"""Of the time that previews may take."""
PARTS = 8
"""Of sampling, each of which lasts once it is done."""

T = TypeVar("T")

log = structlog.get_logger()


@runtime_checkable
class Maker(Protocol):
    """What makes clips: a `kinora.Pipeline`, or what stands for one."""

    @property
    def binding(self) -> str:
        """The weights and the precision that it computes with."""
        ...

    def stream(self, requests: Request, journal: Journal | None = None) -> Iterator[Event]: ...

    def preview(self, denoised: Latents, frame: int = -1) -> np.ndarray: ...


class Cancelled(Exception):
    """The client doesn't want it any more."""


@dataclass
class Making:
    """A clip in the midst of being made."""

    job: Job
    previews: int
    steps: int = 0
    times: list[float] = field(default_factory=list[float])
    """When each step was done that wasn't done before, by another process."""
    looked: float = 0.0
    previewed: float = 0.0
    cost: float = 0.0
    """Seconds that the last preview took."""

    def completes_part(self, event: Event) -> bool:
        """Whether what was computed by now is to last."""
        if not isinstance(event, Sampled):
            return isinstance(event, Encoded)
        return event.step in {math.ceil(event.steps * part / PARTS) for part in range(1, PARTS + 1)}

    def seconds_left(self, step: int) -> float | None:
        """Of sampling, by the median of the steps so far: the first ones take longer."""
        if len(self.times) < 4:
            return None
        return median(later - sooner for sooner, later in pairwise(self.times)) * (
            self.steps - step
        )


class Work:
    """What one worker does about jobs, one at a time.

    Between the pieces, all that is needed to go on lies in files and in the job's row.
    """

    def __init__(self, maker: Maker, leases: Leases, files: Files) -> None:
        self.maker = maker
        self.leases = leases
        self.files = files
        # What a service has taken is read here too, though this machine may be slower.
        self.inspector = Inspector(MAX_PIXELS, slack=4)
        self.taking = Lock()
        self.leaving = Flag()
        """Set when the worker is to leave: what is being made then stays as it is."""

    def once(self) -> bool:
        """Make the clip of the next job; whether there was one. Raises Busy."""
        lease = self.take()
        if lease is None:
            return False
        try:
            for _ in self.make(lease):
                pass
        except Exception as error:  # what nobody has thought of: nobody would make it any more
            self._give_up(lease.job.id, error)
        return True

    def take(self) -> Lease | None:
        """A job, if there is one to make. Raises Busy."""
        with self.taking:
            lease = None if self.leaving.is_set() else self.leases.take()
        if lease is not None and lease.job.ended:  # whoever ended it may have died before this
            self._clear(lease.job.folder)
            return None
        return lease

    def make(self, lease: Lease) -> Generator[Event]:
        """Make a clip, event by event, until the job has ended or is another worker's."""
        job = lease.job
        if lease.anew:
            log.info("job_begun_anew", job=job.id)
            self._clear(job.folder)
        log.info("job_begun", job=job.id, deaths=job.deaths)
        making = Making(job, job.previews)
        try:
            yield from self._follow(making)
        except Cancelled:
            self._end(making, "cancelled")
        except LeaseLost:
            log.warning("lease_lost", job=job.id)
            # What was being stored just then is of no use to anybody, if the other one is done.
            if patiently(lambda: self.leases.is_over(job.id)):
                self._clear(job.folder)
        except Exception as error:
            reason = told(error)
            if reason["code"] == "internal":
                log.exception("job_broke", job=job.id)
            self._end(making, "failed", error=reason)

    def leave(self) -> None:
        """Give the job back to the queue, and take no other one."""
        self.leaving.set()
        with self.taking:
            patiently(self.leases.give_back)

    def close(self) -> None:
        self.inspector.close()

    def _give_up(self, id: str, error: Exception) -> None:
        """Nothing happens to a job that has ended already, or that another worker has."""
        with suppress(LeaseLost):
            reason = told(error)
            patiently(lambda: self.leases.end(id, "failed", error=reason))
            log.error("job_given_up", job=id, reason=str(error))

    def _stay(self) -> None:
        """Until the process ends, where it is to: the job is somebody else's by now."""
        while self.leaving.is_set():
            time.sleep(1)

    def _events(self, making: Making, journal: FileJournal) -> Generator[Event]:
        job = making.job
        data = self.files.read(f"{job.folder}/photo")
        photo = self._kept(making, lambda: self.inspector.pixels(data))
        yield from self.maker.stream(request_of(job.asked, photo), journal)

    def _kept(self, making: Making, change: Callable[[], T]) -> T:
        """Do what must be done, such as storing a clip, however long a disk is full or away.

        Raises Cancelled, or LeaseLost.
        """

        def meanwhile() -> None:
            self._stay()
            self._tell(making)

        return patiently(change, meanwhile=meanwhile)

    def _follow(self, making: Making) -> Generator[Event]:
        """What happens while a clip is made, from its journal on. Where a disk is full or the
        storage away, it is begun once more in a moment. Raises Cancelled, or LeaseLost."""
        while True:
            journal = FileJournal(self.files, _state(making.job.folder))
            try:
                with closing(self._events(making, journal)) as events:
                    for event in events:
                        self._note(making, event, replaying=journal.replaying)
                        if making.completes_part(event):
                            self._kept(making, journal.flush)
                        yield event
                return
            except Exception as error:
                if not (isinstance(error, Busy) or is_full(error)):
                    raise
                log.warning("waiting", reason=str(error))
                time.sleep(1)
                self._stay()
                self._tell(making)

    def _note(self, making: Making, event: Event, *, replaying: bool) -> None:
        """What an event means for the job. Raises Cancelled, or LeaseLost."""
        self._stay()
        match event:
            case Encoded(plans=(plan,)):
                making.steps = plan.steps
                self._tell(making, phase="sampling", steps=plan.steps)
            case Sampled(step=step, steps=steps, denoised=denoised):
                if not replaying:
                    making.times.append(time.monotonic())
                    self._preview(making, denoised)
                phase = "decoding" if step == steps else "sampling"
                left = making.seconds_left(step)
                self._tell(making, phase=phase, step=step, seconds_left=left)
            case Decoded():
                self._tell(making)
            case Done(clips=(clip,)):
                self._finish(making, clip)
            case _:
                pass

    def _tell(self, making: Making, **values: object) -> None:
        now = time.monotonic()
        if now - making.looked < LOOK and values.get("phase") == "sampling":
            return
        making.looked = now
        with suppress(Busy):  # how far it has come is told again at the next step
            if not self.leases.report(making.job.id, previews=making.previews, **values):
                raise Cancelled

    def _preview(self, making: Making, denoised: Latents) -> None:
        """A small picture of the clean estimate, now and then."""
        start = time.monotonic()
        if start - making.previewed < making.cost / SHARE:
            return
        picture = small(Image.fromarray(self.maker.preview(denoised)[0]))
        name = f"{making.job.folder}/preview-{making.previews + 1}.jpg"
        with suppress(Busy):
            self.files.write(name, jpeg(picture))
            making.previews += 1
        making.previewed = time.monotonic()
        making.cost = max(making.previewed - start, 0.05)

    def _finish(self, making: Making, clip: Clip) -> None:
        self._kept(making, lambda: self._store(making.job, clip))
        width, height = clip.size
        result = {
            "frames": len(clip.frames),
            "fps": clip.fps,
            "seconds": clip.duration,
            "width": width,
            "height": height,
            "recipe": clip.recipe,
        }
        self._end(making, "succeeded", result=result)

    def _store(self, job: Job, clip: Clip) -> None:
        with self.files.new(f"{job.folder}/clip.mp4") as path:
            clip.save(path)
        self.files.write(f"{job.folder}/poster.jpg", jpeg(Image.fromarray(clip.frames[0])))
        self.files.write(f"{job.folder}/spritesheet.jpg", jpeg(sheet(clip.frames)))

    def _end(self, making: Making, state: State, **values: object) -> None:
        """Whatever is only of use while the clip is being made goes, once it is this worker's."""
        job = making.job
        size = self.files.bytes_of(job.folder) - self.files.bytes_of(_state(job.folder))
        patiently(lambda: self.leases.end(job.id, state, bytes=size, **values))
        self._clear(job.folder)
        log.info("job_ended", job=job.id, state=state)

    def _clear(self, folder: str) -> None:
        self.files.delete(_state(folder))
        self.files.tidy(folder)


def _state(folder: str) -> str:
    """Where a job's journal lies."""
    return f"{folder}/state"
