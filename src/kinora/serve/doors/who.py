"""What the routes of every door are given."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from kinora.serve.access import Client
from kinora.serve.job import Job
from kinora.serve.service import Service

__all__ = ["BEARER", "Found", "Open", "Who"]


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
