"""`kinora info`: what a checkpoint is, or what a clip was made with."""

import json as jsonlib
import shlex
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from kinora.cli import options
from kinora.cli.check import VARIANTS, check_choice, check_model
from kinora.cli.say import result
from kinora.config import known_config
from kinora.errors import CheckpointError
from kinora.request import Request

__all__ = ["info"]

VIDEOS = (".mp4", ".webm", ".gif", ".webp", ".mov", ".mkv", ".avi", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

Facts = dict[str, Any]


def info(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            show_default=False,
            help="A checkpoint (file or diffusers folder), a clip (file or folder of frames), or "
            "nano.",
        ),
    ],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Read everything: every tensor of a checkpoint, every frame of a clip."
        ),
    ] = False,
    variant: options.Variant = None,
    json: options.Json = False,
) -> None:
    """Tell what a checkpoint is and whether it is complete, or what a clip was made with."""
    check_choice("variant", variant, VARIANTS)
    check_model(path)
    place = Path(path)
    if place.suffix.lower() in VIDEOS + PICTURES or (place / "frame-0001.png").exists():
        facts = clip_facts(place, verify=verify)
    else:
        facts = checkpoint_facts(path, variant, verify=verify)
    if json:
        result(jsonlib.dumps(facts))
        return
    result(str(path))
    for name, value in facts.items():
        if name != "path":
            result(f"  {name:<12} {_words(value)}")


def clip_facts(path: Path, *, verify: bool) -> Facts:
    """What a clip's file says of it. Raises MediaError."""
    from kinora.clip import Clip
    from kinora.media import read_recipe

    recipe = read_recipe(path)
    facts: Facts = {"path": str(path), "kind": "clip"}
    if recipe is None:
        alone = path.suffix.lower() in PICTURES
        facts |= {"kind": "picture"} if alone else {"recipe": None}
    else:
        facts |= {name: value for name, value in recipe.items() if name != "request"}
        request = recipe.get("request")
        if isinstance(request, dict):
            facts["request"] = request
            told = cast(dict[str, object], request)
            # Clips made by programs for other libraries have settings that are no options here.
            if told.keys() <= {field.name for field in fields(Request)}:
                facts["again"] = _command(recipe.get("model"), told)
    if verify:
        clip = Clip.open(path)
        width, height = clip.size
        facts["verified"] = f"{len(clip.frames)} frames of {width}x{height}, {clip.fps} a second"
    return facts


def checkpoint_facts(source: str, variant: str | None, *, verify: bool) -> Facts:
    """What a checkpoint's header says of it. Raises CheckpointError."""
    if known_config(source) is not None and source != "nano" and not Path(source).exists():
        raise CheckpointError(
            f"{source}: a model by name; name the file or folder that it lies in. "
            "`kinora models` tells whether it is downloaded"
        )
    from kinora import weights

    path = weights.locate(source, half=False).path
    found = weights.describe(path, variant=variant)
    config = found.config
    facts: Facts = {
        "path": str(found.path),
        "kind": "checkpoint",
        "format": found.format,
        "model": config.name,
        "trained on": f"{config.frames} frames of {config.width}x{config.height}",
        "defaults": {
            "steps": config.steps,
            "fps": config.fps,
            "motion": config.motion,
            "guidance": "{:g}:{:g}".format(*config.guidance),
            "noise_aug": config.noise_aug,
        },
        "licence": config.licence,
        "parameters": found.parameters,
        "unused": found.unused,
        "dtypes": found.dtypes,
        "bytes": found.bytes,
        "complete": not found.problems,
        "problems": list(found.problems),
        "fingerprint": found.fingerprint,
        "notes": list(found.notes),
    }
    if verify:
        facts["verified"] = f"SHA-256 {weights.verify(path, variant=variant)}"
    return facts


def _command(model: object, request: Mapping[str, object]) -> str:
    """The command that makes the clip again; a model without an alias is for the reader to name."""
    source = str(model) if known_config(str(model)) else "MODEL"
    words = ["kinora", "animate", str(request.get("image") or "PHOTO"), "--model", source]
    for name, value in request.items():
        if name == "image" or value is None:
            continue
        sign = {"size": "x", "guidance": ":", "guidance_interval": ":"}.get(name)
        if sign is not None and isinstance(value, list):
            value = sign.join(map(str, cast(list[object], value)))
        words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _words(value: object) -> str:
    match value:
        case dict():
            pairs = cast(dict[str, object], value).items()
            return ", ".join(
                f"{name} {entry if type(entry) is int else _words(entry)}" for name, entry in pairs
            )
        case list():
            return "; ".join(map(_words, cast(list[object], value))) or "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case None:
            return "none"
        case _:
            return str(value)
