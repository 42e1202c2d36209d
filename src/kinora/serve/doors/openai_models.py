"""The list of models, for programs written for OpenAI's service."""

from typing import Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from kinora.serve.doors.who import BEARER, Open
from kinora.serve.errors import Missing
from kinora.serve.replies import OpenAIRefusal, documented

__all__ = ["router"]

router = APIRouter(
    prefix="/v1/models",
    tags=["OpenAI videos"],
    responses=documented(OpenAIRefusal),
    dependencies=[Depends(BEARER)],
)


class Model(BaseModel):
    """A model that videos can be made with."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    """Not known."""
    owned_by: str = "kinora"


class ModelList(BaseModel):
    """Models."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("", summary="The models that can be asked for")
def models(service: Open) -> ModelList:
    """The service's own, and those of all its workers."""
    return ModelList(data=[Model(id=name) for name in service.models()])


@router.get("/{id:path}", summary="A model")
def model(service: Open, id: str) -> Model:
    """One of those."""
    if id not in service.models():
        raise Missing(f"model {id[:64]!r}: not here. GET /v1/models lists those that are")
    return Model(id=id)
