"""What `kinora animate` was asked for, once all of it was found to be right."""

from pathlib import Path
from typing import NamedTuple

from kinora.cli.place import Place
from kinora.request import Request

__all__ = ["Job", "Printing"]


class Job(NamedTuple):
    """One clip to make."""

    photo: Path
    request: Request
    place: Place


class Printing(NamedTuple):
    """How results are told."""

    json: bool
    bars: bool
    quiet: bool
    video_quality: int
    overwrite: bool
