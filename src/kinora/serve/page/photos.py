"""Photos on their way from the page to the service, and back to be used again."""

import asyncio
import hashlib
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from kinora.serve.access import Client
from kinora.serve.doors.who import Found, Open, Who
from kinora.serve.errors import Invalid, Missing
from kinora.serve.files import Files

__all__ = ["Photos", "router"]

STAY: Final = 600.0
"""Seconds after which a photo that nothing was made of goes."""
WAITING: Final = 8
"""Of a client's at a time; the oldest go first."""


class Photos:
    """Photos that were sent and no clip was asked of yet. Each client finds only its own."""

    def __init__(self, folder: Path) -> None:
        """Raises RequestError when the folder can't be made."""
        self.files = Files(str(folder), private=True)

    def keep(self, client: Client, photo: bytes) -> str:
        """A name to take it by, which holds for some minutes. Raises Busy when there's no room."""
        self._make_room(_shelf(client))
        name = secrets.token_hex(16)
        self.files.write(f"{_shelf(client)}/{name}", photo)
        return name

    def take(self, client: Client, name: str) -> bytes:
        """A photo, once. Raises Invalid."""
        if not re.fullmatch(r"[0-9a-f]{32}", name):
            raise Invalid("choose a photo first")
        place = f"{_shelf(client)}/{name}"
        try:
            photo = self.files.read(place)
        except Missing:
            raise Invalid("the photo got lost on its way. Choose it once more") from None
        self.files.path(place).unlink(missing_ok=True)
        return photo

    def _make_room(self, shelf: str) -> None:
        """Let go of a client's oldest, where it sent many."""
        with suppress(FileNotFoundError):  # somebody else took one just now
            own = sorted(self.files.path(shelf).glob("*"), key=lambda p: p.stat().st_mtime)
            for path in own[: 1 - WAITING]:
                path.unlink()

    def sweep(self) -> None:
        """Let go of what is old."""
        old = time.time() - STAY
        with suppress(FileNotFoundError):
            for path in self.files.path(".").glob("*/*"):
                if path.stat().st_mtime < old:
                    path.unlink()


def _shelf(client: Client) -> str:
    return hashlib.sha256(client.name.encode()).hexdigest()[:32]


def _photos(request: Request) -> Photos:
    return request.app.state.photos


router = APIRouter(prefix="/page", include_in_schema=False)


@router.post("/photos")
async def send(
    request: Request, client: Who, photos: Annotated[Photos, Depends(_photos)]
) -> dict[str, str]:
    """Take a photo as it is: the whole body, whose length the guard limits."""
    body = await request.body()
    return {"photo": await asyncio.to_thread(photos.keep, client, body)}


@router.get("/jobs/{id}/photo")
def back(service: Open, job: Found) -> Response:
    """The photo of a job, for the page to show again; never as something to be opened."""
    photo = service.files.read(f"{job.folder}/photo")
    headers = {"content-disposition": "attachment", "cache-control": "no-store"}
    return Response(photo, media_type="application/octet-stream", headers=headers)
