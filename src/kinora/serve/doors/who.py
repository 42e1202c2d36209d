"""What the routes of every door are given."""

from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from kinora.serve.access import Client
from kinora.serve.errors import Invalid
from kinora.serve.job import Job
from kinora.serve.service import Service

__all__ = ["BEARER", "LONGEST_TEXT", "Found", "Open", "Who", "check_text", "short_texts"]

LONGEST_TEXT: Final = 4000
"""Characters of any text that a client sends: all of it is stored with the job."""
FORMS: Final = ("multipart/form-data", "application/x-www-form-urlencoded")

BEARER = HTTPBearer(auto_error=False, description="Needed where the service asks for tokens.")
"""For the document; the guard has looked at it before."""


def _service(request: Request) -> Service:
    return request.app.state.service


def _client(request: Request) -> Client:
    return request.state.client


Open = Annotated[Service, Depends(_service)]
"""The service behind the door."""
Who = Annotated[Client, Depends(_client)]
"""Who came in."""


def _job(service: Open, client: Who, id: str) -> Job:
    return service.get(client, id)


Found = Annotated[Job, Depends(_job)]
"""The client's job that the path names; refused where there is none."""


def check_text(name: str, value: object) -> None:
    """Raises Invalid for a text that is too long."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise Invalid(
            f"{name[:40]}: has {len(value):,} characters; at most {LONGEST_TEXT:,} are taken"
        )


async def short_texts(request: Request) -> None:
    """Raises Invalid for a form with a text that is too long."""
    if request.headers.get("content-type", "").startswith(FORMS):
        for name, value in (await request.form()).multi_items():
            check_text(name, value)
