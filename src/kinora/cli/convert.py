"""`kinora convert`: checkpoints from one format to another."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from kinora.cli import options
from kinora.cli.check import PRECISIONS, VARIANTS, check_choice, check_model
from kinora.cli.display import display, on_terminal
from kinora.cli.say import remark, result
from kinora.cli.session import out_of_memory
from kinora.errors import OccupiedError

__all__ = ["convert"]


FORMATS: Final[Mapping[str, Literal["kinora", "sgm", "diffusers"]]] = {
    "diffusers": "diffusers",
    "sgm": "sgm",
    "kinora": "kinora",
}
SETTINGS: Final[Mapping[str, Literal["refuse", "note"]]] = {"refuse": "refuse", "note": "note"}


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            show_default=False,
            help="A checkpoint of any format: a file, a folder, an alias or a hub id.",
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="DST",
            show_default=False,
            help="The file, or for diffusers the folder, to write.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            show_default=False,
            help="diffusers: a folder; sgm: the original's single file, which ComfyUI and "
            "DiffSynth read; kinora: one file with the configuration inside.",
        ),
    ],
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default="each tensor's own",
            help=f"Number format of all tensors: {', '.join(PRECISIONS)}.",
        ),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="rebuilt, or zeros",
            help="Original single file to take tensors from that SRC doesn't have; for sgm only.",
        ),
    ] = None,
    variant: options.Variant = None,
    unknown_settings: Annotated[
        str,
        typer.Option(
            metavar="refuse|note",
            help="Settings that the target has no place for, such as another number of norm "
            "groups: refuse, or note them in the configuration for those who set them by hand.",
        ),
    ] = "refuse",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Overwrite DST.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a checkpoint in another format; values are moved, not computed with.

    \b
    kinora convert svd_xt.safetensors svd-xt/ --to diffusers --dtype float16
    """
    check_choice("to", to, tuple(FORMATS))
    check_choice("dtype", dtype, PRECISIONS)
    check_choice("variant", variant, VARIANTS)
    check_choice("unknown_settings", unknown_settings, tuple(SETTINGS))
    check_model(source)
    if os.path.lexists(target) and not yes and not target.is_dir():
        raise OccupiedError.replaceable(target)
    bars = on_terminal() and not quiet
    if not bars:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from kinora import weights
    from kinora.device import DTYPES

    found = weights.locate(source, half=dtype == "float16")
    with out_of_memory("close other programs"), display(shown=bars) as tell:
        notes = weights.convert(
            found.path,
            target,
            to=FORMATS[to],
            dtype=None if dtype is None else DTYPES[dtype],
            variant=variant or found.variant,
            template=template,
            unknown_settings=SETTINGS[unknown_settings],
            overwrite=yes,
            progress=lambda done, total: tell("MiB written", done >> 20, total >> 20),
        )
    for note in notes:
        remark(f"Note: {note}")
    result(str(target))
