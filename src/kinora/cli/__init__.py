"""The command line: it parses, delegates and prints; it decides nothing.

Nothing heavy is imported here, nor by any command before its arguments are found to be right.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from kinora import __version__
from kinora.cli import train
from kinora.cli.animate import animate
from kinora.cli.convert import convert
from kinora.cli.info import info
from kinora.cli.models import models
from kinora.cli.say import result
from kinora.cli.serve import serve, token, worker
from kinora.cli.session import session

__all__ = ["app", "main"]

app = typer.Typer(
    name="kinora",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # importing rich for a help text doubles the time it takes
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    with session():
        app(None if arguments is None else list(arguments), prog_name="kinora")
    sys.exit(0)


def _version(asked: bool) -> bool:
    if asked:
        result(f"kinora {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Turn a still photo into a short video with Stable Video Diffusion.

    \b
    kinora animate photo.jpg            makes photo.mp4 with the bundled model
    kinora animate --help               tells all that can be chosen
    """


app.command()(animate)
app.command()(models)
app.command()(info)
app.command()(convert)
app.command()(serve)
app.command()(worker)
app.command()(token)
app.add_typer(train.app, name="train")
