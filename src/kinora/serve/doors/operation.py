"""What those who run the service ask."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import PlainTextResponse, Response

from kinora import __version__
from kinora.serve.doors.who import BEARER, Open

__all__ = ["router"]

router = APIRouter(tags=["operation"])


@router.get("/healthz")
async def health() -> dict[str, str]:
    """That the process answers, whatever its threads wait for."""
    return {"status": "ok", "version": __version__}


@router.get("/readyz")
def ready(service: Open) -> dict[str, str]:
    """That jobs are taken: the database and the storage answer."""
    service.check()
    return {"status": "ok"}


@router.get("/metrics", response_class=PlainTextResponse, dependencies=[Depends(BEARER)])
def metrics(request: Request) -> Response:
    """For Prometheus."""
    found = request.app.state.metrics
    return Response(found.text(), media_type=found.media_type)
