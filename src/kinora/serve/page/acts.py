"""What the page does when something on it is pressed."""

import html
import secrets
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, cast

import gradio as gr

from kinora.config import ModelConfig
from kinora.request import draw_seed
from kinora.serve.access import Client
from kinora.serve.errors import Conflict, Refused
from kinora.serve.job import Job
from kinora.serve.page.following import Queue, follow
from kinora.serve.page.form import Form, asked, filled
from kinora.serve.page.photos import Photos
from kinora.serve.page.show import detail, gallery, stage
from kinora.serve.service import Service

__all__ = ["Acts", "Parts"]

SIDE_BY_SIDE = 4
LISTED = 12
"""Clips of the gallery, at first; as many come with every press."""

Update = dict[Any, Any]
"""New values of some components."""


class Parts(NamedTuple):
    """What is on the page besides the form."""

    photo: gr.HTML
    make: gr.Button
    four: gr.Button
    stage: gr.HTML
    cancel: gr.Button
    actions: gr.Row
    again: gr.Button
    use: gr.Button
    delete: gr.Button
    detail: gr.HTML
    gallery: gr.HTML
    more: gr.Button
    shown: gr.State
    """Ids of the jobs on the stage."""
    ended: gr.State
    """How many of them have ended."""
    pages: gr.State
    """How many times more of the gallery was asked for."""


class Acts:
    """Handlers of the page's events. What the service refuses is told to whoever asked."""

    def __init__(
        self,
        service: Service,
        photos: Photos,
        config: ModelConfig | None,
        form: Form,
        parts: Parts,
    ) -> None:
        self.service = service
        self.photos = photos
        self.config = config
        self.form = form
        self.parts = parts
        self.followers: dict[str, object] = {}
        """The latest of each open page: an older one has nothing to show any more."""

    @property
    def followed(self) -> list[Any]:
        """The components that `follow` changes."""
        p = self.parts
        return [p.stage, p.cancel, p.actions, p.detail, p.ended]

    def begin(self, request: gr.Request) -> tuple[list[str], Any]:
        """What a page shows when it is opened: what is being made, or what was made last."""
        with telling():
            name = _client(request).name
            jobs = self.service.jobs.find(name, door="page", limit=SIDE_BY_SIDE).jobs
            going = [job.id for job in reversed(jobs) if not job.ended]
            ids = going or [job.id for job in reversed(jobs) if _together(job, jobs[0])]
            return ids, gr.update() if ids else stage((), {})

    def make(self, request: gr.Request, photo: str, *values: Any) -> list[str]:  # noqa: ANN401
        """Ask for a clip."""
        return self._make(request, photo, values, 1)

    def make_four(self, request: gr.Request, photo: str, *values: Any) -> list[str]:  # noqa: ANN401
        """Ask for clips of four seeds that follow each other."""
        return self._make(request, photo, values, SIDE_BY_SIDE)

    def again(self, shown: list[str], request: gr.Request) -> list[str]:
        """Ask for what is on the stage once more, but for its seed."""
        client = _client(request)
        with telling():
            job = self.service.get(client, *shown[:1])
            photo = self.service.files.read(f"{job.folder}/photo")
            values = {name: value for name, value in job.asked.items() if name != "seed"}
            made = self.service.submit(client, photo, values, door="page", model=job.model)
            return [made.id]

    def use(self, shown: list[str], request: gr.Request) -> list[Any]:
        """The settings of what is on the stage, for the form."""
        with telling():
            job = self.service.get(_client(request), *shown[:1])
            return list(filled(self.config, job.asked))

    def cancel(self, shown: list[str], request: gr.Request) -> None:
        with telling():
            for id in shown:
                with suppress(Conflict):  # that has ended already
                    self.service.cancel(_client(request), id)

    def delete(self, shown: list[str], request: gr.Request) -> list[str]:
        with telling():
            for id in shown:
                self.service.delete(_client(request), id)
            return []

    def pick(self, event: gr.EventData, request: gr.Request) -> list[str]:
        """Put a job on the stage."""
        with telling():
            return [self.service.get(_client(request), str(event.id)).id]

    def more(self, pages: int) -> int:
        """Have the gallery show more."""
        return pages + 1

    def listing(self, shown: list[str], pages: int, request: gr.Request) -> tuple[str, Any]:
        """The gallery, and whether there are earlier clips than it shows."""
        with telling():
            most = LISTED * (pages + 1)
            found = self.service.jobs.find(_client(request).name, limit=most)
            return gallery(found.jobs, shown), gr.update(visible=found.more)

    async def follow(self, shown: list[str], request: gr.Request) -> AsyncGenerator[Update]:
        """The stage, whenever one of its jobs has changed, until all have ended."""
        page, me = request.session_hash or "", object()
        self.followers[page] = me
        try:
            client = _client(request).name
            async for jobs, waiting in follow(self.service, client, shown):
                if self.followers.get(page) is not me:
                    return
                yield self._seen(jobs, waiting)
        finally:
            if self.followers.get(page) is me:
                del self.followers[page]

    def _make(
        self, request: gr.Request, photo: str, values: Sequence[Any], count: int
    ) -> list[str]:
        if photo == "-":  # the browser couldn't send it, and has said so
            return cast(Any, gr).skip()
        client = _client(request)
        ids: list[str] = []
        with telling():
            wanted = asked(self.config, values)
            data = self.photos.take(client, photo)
            first = wanted.get("seed", draw_seed())
            notes = {"together": secrets.token_hex(8)}
            for seed in range(first, first + count):
                try:
                    job = self.service.submit(
                        client, data, {**wanted, "seed": seed}, door="page", notes=notes
                    )
                except Refused as refused:
                    if not ids:
                        raise
                    gr.Warning(_said(refused), title="Not all of them")
                    break
                ids.append(job.id)
        return ids

    def _seen(self, jobs: Sequence[Job], waiting: dict[str, Queue]) -> Update:
        p = self.parts
        ended = sum(job.ended for job in jobs)
        alone = len(jobs) == 1 and ended == 1
        return {
            p.stage: stage(jobs, waiting),
            p.cancel: gr.update(visible=ended < len(jobs)),
            p.actions: gr.update(visible=alone),
            p.detail: detail(jobs[0]) if alone else "",
            p.ended: ended,
        }


def _together(one: Job, other: Job) -> bool:
    """Whether two jobs were asked for at once."""
    together = one.notes.get("together")
    return one.id == other.id or (together is not None and together == other.notes.get("together"))


@contextmanager
def telling() -> Generator[None]:
    """Has a refusal shown on the page. Raises gr.Error."""
    try:
        yield
    except Refused as refused:
        raise gr.Error(_said(refused), title="That didn't work", print_exception=False) from None


def _said(refused: Refused) -> str:
    text = str(refused)
    return html.escape(text[:1].upper() + text[1:])


def _client(request: gr.Request) -> Client:
    """Who the guard has let in."""
    return request.state.client
