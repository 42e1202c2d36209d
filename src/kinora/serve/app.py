"""The service over HTTP: three doors and a page in one application."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.responses import Response

from kinora import __version__
from kinora.serve.access import Access
from kinora.serve.doors import login, openai, openai_models, operation, own, stability
from kinora.serve.errors import Broken, Busy, Invalid, Missing, Refused, TooLarge, is_full
from kinora.serve.guard import Guard
from kinora.serve.metrics import Metrics
from kinora.serve.replies import refusal
from kinora.serve.service import Service

__all__ = ["create_app"]

SWEEP: Final = 60.0
"""Seconds between two looks for what was kept long enough."""

log = structlog.get_logger()


def create_app(service: Service, access: Access, *, page: bool = True) -> Guard:
    """All routes of a service, guarded.

    page: whether there is a page at /, besides the doors for programs.
    """

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncGenerator[None]:
        sweeping = asyncio.create_task(_sweep(service))
        yield
        sweeping.cancel()

    app = FastAPI(
        title="Kinora",
        version=__version__,
        description="Short videos of still photos, with Stable Video Diffusion.",
        docs_url=None,  # its scripts would come from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=running,
    )
    # Forms stay in memory, which is bounded: a full temporary directory refuses none of them.
    MultiPartParser.spool_max_size = service.limits.body
    app.state.service = service
    app.state.access = access
    app.state.metrics = Metrics(service)
    for door in (own, stability, openai, openai_models, operation, login):
        app.include_router(door.router)
    _answer_errors(app)
    if page:
        from kinora.serve.page import mount_page

        mount_page(app, service)
    return Guard(app, access, service.limits, app.state.metrics.request)


async def _sweep(service: Service) -> None:
    while True:
        try:
            await asyncio.to_thread(service.sweep)
        except Exception as error:  # whatever it is, the next time may work
            log.warning("sweep_failed", reason=str(error))
        await asyncio.sleep(SWEEP)


def _answer_errors(app: FastAPI) -> None:
    """Have every failure answered in the form of the door that it happened behind."""

    def answer(request: Request, refused: Refused) -> Response:
        return refusal(request.url.path, refused, request.state.id)

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> Response:  # pyright: ignore[reportUnusedFunction]
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:  # pyright: ignore[reportUnusedFunction]
        said = [(".".join(map(str, e["loc"][1:])) or "body", e["msg"]) for e in error.errors()]
        return answer(request, Invalid("; ".join(f"{where}: {what}" for where, what in said)))

    @app.exception_handler(HTTPException)
    def other(request: Request, error: HTTPException) -> Response:  # pyright: ignore[reportUnusedFunction]
        kinds = {404: Missing, 413: TooLarge, 422: Invalid}
        made = kinds.get(error.status_code, Refused)(str(error.detail))
        made.status = error.status_code
        return answer(request, made)

    @app.exception_handler(OSError)
    def unwritable(request: Request, error: OSError) -> Response:  # pyright: ignore[reportUnusedFunction]
        if is_full(error):
            return answer(request, Busy("a disk of this service is full. Try again later"))
        raise error

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:  # pyright: ignore[reportUnusedFunction]
        return answer(request, Broken("a fault of this service; its log tells more"))
