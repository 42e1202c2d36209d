"""What the service does, whichever door a client comes through."""

import hashlib
import json
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, Final

import structlog
from starlette.concurrency import run_in_threadpool

from kinora.config import known_config
from kinora.errors import RequestError
from kinora.request import Request, draw_seed
from kinora.serve.access import Client
from kinora.serve.clock import Clock
from kinora.serve.database import open_database
from kinora.serve.errors import Broken, Busy, Conflict, Full, Invalid, Missing, TooLarge
from kinora.serve.files import Files, make_private, room
from kinora.serve.heartbeat import count_workers
from kinora.serve.inspecting import Inspector, Seen
from kinora.serve.job import Job, Order, folder_of, request_of
from kinora.serve.jobs import Jobs
from kinora.serve.settings import OWN_NAMES, Settings
from kinora.serve.watch import Watch

__all__ = ["FIELDS", "FORMATS", "Service"]

FORMATS: Final = ("mp4", "webm", "gif")
PATIENCE: Final = 5.0
"""Seconds that a client waits for the database's lock, before it is told to come again."""
ORPHAN: Final = 3600.0
"""Seconds after which a folder that is no job's is nobody's."""
WAITING: Final = 8
"""Who may wait for clips in other formats; more would take the threads that others need."""
PROBE: Final = bytes(1 << 16)
"""What is written to see whether there is room."""
FRESH: Final = 1.0
"""Seconds for which it holds that jobs can be taken."""
FIELDS: Final = tuple(f.name for f in fields(Request) if f.name != "image")
"""What can be asked for."""


log = structlog.get_logger()


class Service:
    """Takes orders, tells how far they are, and hands out what became of them."""

    def __init__(self, settings: Settings) -> None:
        """Raises RequestError when the database or the storage can't be used."""
        make_private(settings.data, OWN_NAMES)
        self.settings = settings
        self.limits = settings.limits
        self.database = open_database(settings.database_url, patience=PATIENCE)
        self.jobs = Jobs(self.database)
        self.files = Files(settings.storage_url, private=settings.storage is None)
        self.inspector = Inspector(settings.limits.pixels)
        self.clock = Clock(self.database)
        self.watch = Watch(self.jobs.several)
        self.tidied: list[Callable[[], None]] = []
        """What else is to be done at each sweep."""
        self.converting = threading.Lock()
        self.places = threading.BoundedSemaphore(WAITING)
        self.checked = -FRESH

    def submit(
        self,
        client: Client,
        photo: bytes,
        asked: Mapping[str, Any],
        *,
        door: str,
        model: str | None = None,
        key: str | None = None,
        notes: Mapping[str, Any] | None = None,
        keep: int | None = None,
        kinds: Collection[str] = (),
        seen: Seen | None = None,
    ) -> Job:
        """Put a clip into the queue; the same key gives the same job.

        asked: fields of `kinora.Request`; a seed is drawn where it has none.
        notes: what the protocol wants back. keep: seconds, where it isn't the service's own time.
        kinds: formats of photos that the protocol takes; all that can be read when empty.
        seen: what the photo is, where it has been looked at already.
        Raises what is a kind of Refused; then nothing is kept.
        """
        name = self._model(model)
        request = self._checked(asked)
        values = {field: value for field, value in asked.items() if value is not None}
        digest = hashlib.sha256(photo)
        digest.update(json.dumps([name, values], sort_keys=True).encode())
        seen = seen or self.inspector.photo(photo, client.name)
        if kinds and seen.format not in kinds:
            raise Invalid(f"the photo is {seen.format}; it must be {' or '.join(kinds)}")
        cautions = self._cautions(name, request, (seen.width, seen.height))
        order = Order(
            id=secrets.token_hex(32),
            client=client.name,
            door=door,
            model=name,
            asked={"seed": draw_seed(), **values},
            notes={**(notes or {}), "cautions": cautions},
            keep=int(self.limits.keep_days * 86400) if keep is None else keep,
            key=key,
            digest=digest.hexdigest(),
            bytes=len(photo),
        )
        folder = folder_of(order.id)
        self.files.write(f"{folder}/photo", photo)
        try:
            job, new = self.jobs.submit(
                order,
                queue=self.limits.queue,
                per_client=client.jobs or self.limits.per_client,
            )
        except (Full, Conflict):
            self.files.delete(folder)
            raise
        # After any other failure it may be there all the same: the photo stays until a sweep.
        if not new:
            self.files.delete(folder)
        log.info("job_asked", job=job.id, client=client.name, door=door, new=new)
        return job

    async def submit_async(
        self,
        client: Client,
        photo: bytes,
        asked: Mapping[str, Any],
        **others: Any,  # noqa: ANN401 (those of `submit`)
    ) -> Job:
        """`submit` on an event loop: a photo that waits to be opened takes no thread."""
        self._checked(asked)
        seen = await self.inspector.photo_async(photo, client.name)
        submit = partial(self.submit, client, photo, asked, seen=seen, **others)
        return await run_in_threadpool(submit)

    def get(self, client: Client, id: str) -> Job:
        """Raises Missing, also for somebody else's."""
        return self.jobs.get(id, client.name)

    def cancel(self, client: Client, id: str) -> Job:
        """Raises Missing, or Conflict for a job that has ended otherwise."""
        return self.jobs.cancel(id, client.name)

    def delete(self, client: Client, id: str) -> None:
        """Forget a job with its files; one that has not ended is cancelled. Raises Missing."""
        job = self.jobs.hide(id, client.name)
        if job.ended:
            self._forget(job.id)

    def clip(self, job: Job, suffix: str = "mp4") -> str:
        """Where a finished job's clip lies, made in other formats when first asked for.

        Raises Missing for a job that has no clip, or has none yet, or Busy.
        """
        if suffix not in FORMATS:
            raise Missing(f"clip.{suffix}: clips are there as {', '.join(FORMATS)}")
        if job.state != "succeeded":
            raise Missing(f"job {job.id}: it is {job.state} and has no clip")
        name = f"{job.folder}/clip.{suffix}"
        if self.files.exists(name):
            return name
        if not self.places.acquire(blocking=False):
            raise Busy("too many clips are being converted. Try again in a moment")
        try:
            with self.converting:  # one at a time; perhaps it was this one
                if not self.files.exists(name):
                    self._convert(job, name)
        finally:
            self.places.release()
        return name

    def _convert(self, job: Job, name: str) -> None:
        clip = f"{job.folder}/clip.mp4"
        self.files.about(clip)  # raises Missing
        with self.files.local(clip) as source, self.files.new(name) as target:
            try:
                self.inspector.convert(source, target)
            except Invalid as error:  # our own clip: that isn't the client's fault
                log.warning("clip_not_converted", job=job.id, reason=str(error))
                self.files.about(clip)  # it may have been deleted just now
                raise Broken("the clip can't be converted: the service's log says why") from error
        self.jobs.weigh(job.id, self.files.bytes_of(job.folder))

    def models(self) -> dict[str, int]:
        """The models that can be asked for, and how many workers run each. Raises Busy."""
        return {self.settings.model_name: 0, **count_workers(self.database)}

    def check(self) -> None:
        """Whether jobs can be taken. Raises Busy when they can't, as where a disk is full."""
        if time.monotonic() < self.checked + FRESH:
            return
        self.jobs.counts()
        self.files.write("probe", PROBE)
        for name, folder in (("data folder", self.settings.data), ("temporary directory", None)):
            with room(f"the {name}"), tempfile.TemporaryFile(dir=folder) as file:
                file.write(PROBE)
                file.flush()
        self.checked = time.monotonic()

    def sweep(self) -> None:
        """Delete what was kept long enough, and what is nobody's."""
        if not self.clock.steady():
            return
        for tidy in self.tidied:
            tidy()
        for id in self.jobs.outdated(self.limits.keep_bytes):
            self._forget(id)
        for shelf in self.files.folders("jobs"):
            found = {name.rpartition("/")[2]: name for name in self.files.folders(shelf)}
            for id in found.keys() - self.jobs.several(found).keys():
                if self.files.age(found[id]) > ORPHAN:
                    self.files.delete(found[id])
        self.files.prune("jobs", ORPHAN)

    def close(self) -> None:
        self.inspector.close()
        self.database.close()

    def _forget(self, id: str) -> None:
        try:
            self.files.delete(folder_of(id))
            self.jobs.forget(id)
        except Exception as error:  # what fails is tried again at the next sweep
            log.warning("not_forgotten_yet", job=id, reason=str(error))

    def _model(self, name: str | None) -> str:
        """Raises Invalid for a model that no worker runs."""
        if name is None or name == self.settings.model_name:
            return self.settings.model_name
        there = self.models()
        if name not in there:
            raise Invalid(f"model {name!r}: not here. There are {', '.join(there)}")
        return name

    def _checked(self, asked: Mapping[str, Any]) -> Request:
        """What is asked for, without its photo. Raises Invalid or TooLarge."""
        unknown = ", ".join(sorted(set(asked) - set(FIELDS)))
        if unknown:
            raise Invalid(f"{unknown}: no such field. There are {', '.join(FIELDS)}")
        try:
            request = request_of(asked)
        except RequestError as error:
            raise Invalid(str(error)) from None
        for name, value, most in (
            ("frames", request.frames, self.limits.frames),
            ("steps", request.steps, self.limits.steps),
            ("size", max(request.size or (0, 0)), self.limits.side),
        ):
            if value is not None and value > most:
                raise TooLarge(f"{name} {value}: at most {most} here")
        return request

    def _cautions(self, model: str, request: Request, size: tuple[int, int]) -> list[str]:
        """What the client should hear of a request, where the model is known.

        size: of the photo. Raises Invalid for what the model can't do.
        """
        config = known_config(model)
        if config is None:
            return []
        try:
            request.resolved(config, size)
        except RequestError as error:
            raise Invalid(str(error)) from None
        return request.cautions(config)
