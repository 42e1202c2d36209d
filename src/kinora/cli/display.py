"""Progress on a terminal; silence elsewhere."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["Tell", "display", "on_terminal"]

Tell = Callable[[str, int, int], None]
"""Told the stage, how much of it is done, and how much there is (0: nobody knows)."""


def on_terminal() -> bool:
    """Whether a person watches."""
    return sys.stderr.isatty()


@contextmanager
def display(*, shown: bool, clips: int = 1) -> Generator[Tell, None, None]:
    """A bar with the time left, gone in the end, on stderr; results go to stdout past it.

    clips: how many will be made. With several there is a second bar above, which needs stages that
    start with "sampling" and "saving".
    """
    if not shown:
        yield lambda stage, done, total: None
        return
    # Imported here: help texts and scripts need none of it.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # a pipe must get what is written to it
        speed_estimate_period=86400,  # one step may take minutes
    ) as progress:
        whole = progress.add_task("all clips", total=clips, visible=clips > 1, count="")
        bar = progress.add_task("", total=None, count="")
        current, made = "", 0

        def tell(stage: str, done: int, total: int) -> None:
            nonlocal bar, current, made
            if stage != current:
                progress.remove_task(bar)
                bar = progress.add_task(stage, total=None, count="")
                current = stage
                made += stage.startswith("saving")
            count = f"{done}/{total}" if total else ""
            progress.update(bar, total=total or None, completed=done, count=count)
            share = done / total if total and stage.startswith("sampling") else 0.0
            if share or stage.startswith("saving"):
                progress.update(whole, completed=made + share, count=f"{made}/{clips}")

        yield tell
