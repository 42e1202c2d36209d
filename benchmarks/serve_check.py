"""What is left of a service's jobs in the end, against what its clients were told."""

from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.serve_clients import Tally
from kinora.clip import Clip
from kinora.serve.database import jobs as table
from kinora.serve.database import open_database
from kinora.serve.job import ENDED, folder_of
from kinora.serve.settings import Settings

__all__ = ["check"]

NEAR = 5
"""How far a decoded pixel may be from the colour that its seed tells."""
COLOURS = 251
FILES = {"photo", "clip.mp4", "poster.jpg", "spritesheet.jpg"}
"""Of a job that succeeded, besides previews."""


def check(told: Settings, tally: Tally) -> dict[str, Any]:
    """Counts, and under "faults" all that is not as it should be."""
    faults: list[str] = []
    database = open_database(told.database_url, patience=10)
    with database.read() as c:
        rows = {row.id: row for row in c.execute(table.select())}
        sqlite = c.dialect.name == "sqlite"
        if sqlite and (said := c.scalar(sa.text("PRAGMA integrity_check"))) != "ok":
            faults.append(f"SQLite: {said}")
    lost, unknown = tally.accepted.keys() - rows.keys(), rows.keys() - tally.accepted.keys()
    faults += [f"{id}: lost" for id in lost] + [f"{id}: nobody asked for it" for id in unknown]
    files = Path(told.storage_url)
    for id, row in rows.items():
        faults += [f"{id}: {fault}" for fault in look(files / folder_of(id), row, tally)]
    folders = {path.name for path in files.glob("jobs/*/*")}
    states = Counter(row.state for row in rows.values())
    return {
        "accepted": len(tally.accepted),
        "states": dict(states),
        "failures": dict(Counter(row.error["code"] for row in rows.values() if row.error)),
        "deaths": sum(row.deaths for row in rows.values()),
        "gone_on_with": sum(
            bool(row.result and row.result["recipe"]["replayed"]) for row in rows.values()
        ),
        "lost": len(lost),
        "folders_of_nobody": len(folders - rows.keys()),
        "drafts": len(list(files.rglob(".*"))),
        "faults": faults,
    }


def look(folder: Path, row: sa.Row[Any], tally: Tally) -> Generator[str]:
    """What is wrong with one job."""
    seed = tally.accepted.get(row.id)
    if row.state not in ENDED:
        yield f"it is {row.state}"
    if tally.ended.get(row.id, (row.state, row.finished)) != (row.state, row.finished):
        yield f"it ended as {tally.ended[row.id]}, and then as {row.state} at {row.finished}"
    if row.asked["seed"] != seed:
        yield f"it has seed {row.asked['seed']}, and {seed} was asked for"
    if row.state == "failed" and row.error["code"] != "worker_died":
        yield f"it failed: {row.error}"
    names = {path.name for path in folder.iterdir() if not path.name.startswith("preview-")}
    wanted = FILES if row.state == "succeeded" else {"photo"}
    if names - FILES or not wanted <= names:
        yield f"it {row.state} and has {sorted(names)}"
    if row.state == "succeeded" and seed is not None:
        frames = Clip.open(folder / "clip.mp4").frames.astype(int)
        if frames.shape[0] != 2 or abs(frames - seed % COLOURS).max() > NEAR:
            yield f"its clip has another colour than {seed % COLOURS}: {frames.mean()}"
