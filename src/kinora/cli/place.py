"""Which photos are meant, and where their clips go."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kinora.errors import MediaError, RequestError

__all__ = ["Place", "find_photos", "place_clips"]


class Place(NamedTuple):
    """Where a clip goes."""

    path: Path
    named: bool
    """Exactly there; otherwise to the next free name."""


def find_photos(names: Sequence[str]) -> list[Path]:
    """The photos meant, each once. Patterns such as *.jpg, which shells leave alone where nothing
    matches or where they are quoted, are expanded.

    Raises MediaError when nothing matches.
    """
    found: list[Path] = []
    for name in names:
        if os.path.lexists(name) or not glob.has_magic(name):
            found.append(Path(name))
            continue
        matches = [Path(m) for m in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
        matches = [match for match in matches if not match.is_dir()]
        if not matches:
            raise MediaError(f"{name}: no file matches. Check the folder and the ending")
        found += matches
    return list(dict.fromkeys(found))


def place_clips(
    photos: Sequence[Path], seeds: int, output: str | None, *, overwrite: bool
) -> list[Place]:
    """A place for each photo's clips, checked.

    output: a file, or a folder of PNGs, for a single clip; a folder for several, or for one when
        it ends with a slash. None: the current folder.
    Raises OutputError when something can't be written there, RequestError when several clips
    would go to one file.
    """
    from kinora.media import SUFFIXES, check_output, check_place

    several = len(photos) * seeds > 1
    into_folder = output is not None and output.endswith(("/", os.sep))
    if output is not None and not several and not into_folder:
        check_output(output, overwrite=overwrite)
        return [Place(Path(output), named=True)]
    folder = Path(output or "")
    if folder.suffix.lower() in SUFFIXES[:-1] and not folder.is_dir():
        raise RequestError(
            f"output {output}: one file, but {len(photos) * seeds} clips are asked for; "
            "name a folder for them"
        )
    places = [Place(folder / f"{photo.stem}.mp4", named=False) for photo in photos]
    for place in places:
        check_place(place.path)
    return places
