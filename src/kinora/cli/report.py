"""What a training run tells, on the screen. Imported when all arguments were found to be right."""

import json as jsonlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict

from kinora.cli.display import display, on_terminal
from kinora.cli.say import remark, result
from kinora.train import Progress, Report

__all__ = ["reporting"]


@contextmanager
def reporting(json: bool, quiet: bool) -> Generator[Report, None, None]:
    """Tells of a run: a line a report, and a bar below on a terminal."""
    with display(shown=on_terminal() and not quiet) as tell:

        def report(progress: Progress) -> None:
            if json:
                result(jsonlib.dumps(asdict(progress)))
            elif not quiet and (progress.values or progress.stage == "resume"):
                remark(progress.line())
            tell(progress.stage, progress.step, progress.steps)

        try:
            yield report
        except KeyboardInterrupt:
            remark("Stopped; the same command again goes on from what is saved")
            raise
