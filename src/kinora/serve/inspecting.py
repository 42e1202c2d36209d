"""Clients' photos and our clips, opened in processes of their own."""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import UInt8
from starlette.concurrency import run_in_threadpool

from kinora.serve.errors import Invalid, TooLarge
from kinora.serve.formats import check_format
from kinora.serve.readers import Answered, Readers
from kinora.serve.turns import Turns

__all__ = ["Inspector", "Seen"]

SECONDS: Final = 30.0
"""For one photo, on the clock."""
PROCESSOR_SECONDS: Final = 20
"""For one photo, of a processor."""
FILM_SECONDS: Final = 300.0
"""For a clip in another format."""
PLACES: Final = 3
"""Photos that are opened at a time,"""
EACH: Final = 2
"""and those of one client: another one's is opened at once."""
WAITING: Final = 64
"""Photos of one client that may wait for that,"""
PATIENCE: Final = 20.0
"""and seconds that they may."""


class Seen(NamedTuple):
    """A photo that can be read, as it is to be looked at."""

    width: int
    height: int
    format: str
    """"JPEG", "PNG" and so on."""


class Inspector:
    """Looks at photos, and makes other formats of clips."""

    def __init__(self, pixels: int, *, slack: int = 1) -> None:
        """pixels: of a photo, at most. slack: how many times as long as usual a photo may take."""
        self.pixels_at_most = pixels
        self.slack = slack
        self.readers = Readers()
        self.turns = Turns(PLACES, each=EACH, waiting=WAITING, seconds=PATIENCE)

    def photo(self, data: bytes, client: str = "") -> Seen:
        """Raises Invalid when it can't be read, TooLarge, or Busy."""
        _check(data)
        with self.turns.turn(client):
            return self._look(data)

    async def photo_async(self, data: bytes, client: str) -> Seen:
        """The same on an event loop: a photo whose turn has not come takes no thread."""
        _check(data)
        async with self.turns.awaited(client):
            return await run_in_threadpool(self._look, data)

    def pixels(self, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
        """What a photo shows. Raises Invalid or Busy."""
        _check(data)
        (width, height), found = self._ask("pixels", data)
        if len(found) != 3 * width * height:
            raise Invalid("the photo can't be decoded")
        return np.frombuffer(found, np.uint8).reshape(height, width, 3)

    def convert(self, source: Path, target: Path) -> None:
        """A clip in the format of another suffix. Raises Invalid or Busy."""
        self.readers.ask(
            "convert",
            str(source),
            str(target),
            seconds=FILM_SECONDS,
            processor_seconds=2 * int(FILM_SECONDS),  # encoders have several threads
        )

    def close(self) -> None:
        self.readers.stop()

    def _look(self, data: bytes) -> Seen:
        answered = self._ask("look", data)
        width, height, kind = answered.done
        if width * height > self.pixels_at_most:
            raise TooLarge(
                f"the photo has {width}x{height} pixels; at most {self.pixels_at_most:,} are "
                "taken. Scale it down first"
            )
        return Seen(int(width), int(height), str(kind))

    def _ask(self, task: str, data: bytes) -> Answered:
        return self.readers.ask(
            task,
            data=data,
            seconds=self.slack * SECONDS,
            processor_seconds=self.slack * PROCESSOR_SECONDS,
        )


def _check(data: bytes) -> None:
    """Raises Invalid for what needn't be opened to be refused."""
    if not data:
        raise Invalid("the photo is empty. Send a picture file")
    check_format(data)
