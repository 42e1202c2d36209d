"""`kinora train`: the two commands that make a model from nothing."""

import json as jsonlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from kinora.cli import options
from kinora.cli.check import check_device, check_folder
from kinora.cli.place import find_photos
from kinora.cli.say import remark, result
from kinora.cli.session import out_of_memory
from kinora.spelled import parse_size

__all__ = ["app", "unet", "vae"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train a model: first the autoencoder (vae), then the rest (unet). "
    "The same command again goes on where it stopped.",
)

Run = Annotated[
    Path,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Folder of the run; the model gets its name.",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        metavar="X", min=0, show_default="until finished", help="Save and stop after so long."
    ),
]
Photos = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PHOTO",
        show_default="none",
        help="Picture, or pattern, to watch progress on; nothing is learnt from it. May be "
        "repeated.",
    ),
]

Init = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default="random weights",
        help="Run to start from, perhaps one at a smaller size.",
    ),
]
Optimizer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="adamw",
        help="adamw, or muon: fewer steps from random weights, at a learning rate of about 0.003.",
    ),
]


def number(default: str, words: str, low: int = 1) -> OptionInfo:
    """An option that is a number; left out, it is what the settings say."""
    return typer.Option(metavar="N", min=low, show_default=default, help=words)


STEPS = "Steps after which training is finished; more may be asked for later."
RATE = "Highest learning rate, above 0."
WARM_UP = "Steps over which it rises to that."
SEED = "Chance, a whole number from 0: of first weights, clips and noise."
SPEED = "Speed at motion 255, in fractions of the width a second, above 0."
SIMPLE = "Only pans along the sides of the picture, at an even pace: easiest to learn."
FLOW = "Weight of the loss on the flow, which made-up clips know: the UNet's middle has to tell it."
LAYERS = "Depth layers of a scene; with 1, all of it moves as a whole."
COARSE = "Weight of the loss at half the size, which keeps latents simple."
AVERAGE = "Decay of the moving average of the weights, below 1."
SAVE = "Steps from one checkpoint to the next."
WORKERS = "Processes that render clips, where the CPU does."
COMPILE = "Compile the networks first; worth it on a GPU."
DEVICE = "Where to compute: cuda, cuda:1 or cpu."


@app.command()
def vae(
    run: Run = Path("runs/mine"),
    steps: Annotated[int | None, number("2000", STEPS)] = None,
    minutes: Minutes = None,
    size: Annotated[int | None, number("64", "Side of the square crops, in pixels.")] = None,
    frames: Annotated[int | None, number("4", "Frames of a clip.")] = None,
    clips: Annotated[int | None, number("4", "Clips a step.")] = None,
    pool: Annotated[int | None, number("1024", "Clips rendered before training.")] = None,
    pool_size: Annotated[int | None, number("96", "Side of their frames, in pixels.")] = None,
    coarse_weight: Annotated[float | None, number("0.25", COARSE, 0)] = None,
    optimizer: Optimizer = None,
    learning_rate: Annotated[float | None, number("0.0005", RATE, 0)] = None,
    warm_up: Annotated[int | None, number("100", WARM_UP, 0)] = None,
    average: Annotated[float | None, number("0.998", AVERAGE, 0)] = None,
    seed: Annotated[int | None, number("0", SEED, 0)] = None,
    photos: Photos = None,
    init: Init = None,
    save_every: Annotated[int | None, number("200", SAVE)] = None,
    workers: Annotated[int | None, number("2", WORKERS)] = None,
    compile: Annotated[bool, typer.Option("--compile", help=COMPILE)] = False,
    device: options.Device = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train the autoencoder on clips made from nothing.

    Leaves it in DIR/vae, for `kinora train unet`. The same command again goes on.
    """
    given = _given(
        {
            "steps": steps,
            "size": size,
            "frames": frames,
            "clips": clips,
            "pool": pool,
            "pool_size": pool_size,
            "coarse_weight": coarse_weight,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "warm_up": warm_up,
            "average": average,
            "init": None if init is None else str(init),
            "seed": seed,
            "save_every": save_every,
            "workers": workers,
            "compile": compile,
            "device": device,
            "photos": _photos(photos),
        }
    )
    check_device(device)
    check_folder(run)
    from kinora.cli.report import reporting
    from kinora.train import VAETraining, train_vae

    settings = VAETraining(**given)
    with out_of_memory("lower --size, --frames or --clips"), reporting(json, quiet) as report:
        finished = train_vae(settings, run, minutes=minutes, report=report)
    _end(finished, run / "vae" / "vae.safetensors", json)


@app.command()
def unet(
    run: Run = Path("runs/mine"),
    steps: Annotated[int | None, number("4000", STEPS)] = None,
    minutes: Minutes = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH", show_default="64x64", help="Width and height of the clips, in pixels."
        ),
    ] = None,
    frames: Annotated[int | None, number("8", "Frames of a clip.")] = None,
    clips: Annotated[int | None, number("4096", "Clips encoded before training.")] = None,
    batch: Annotated[int | None, number("16", "Clips a step.")] = None,
    optimizer: Optimizer = None,
    learning_rate: Annotated[float | None, number("0.0005", RATE, 0)] = None,
    warm_up: Annotated[int | None, number("100", WARM_UP, 0)] = None,
    average: Annotated[float | None, number("0.998", AVERAGE, 0)] = None,
    crop: Annotated[
        int | None, number("whole frames", "Side of the random squares of a step, in pixels.", 1)
    ] = None,
    noise_mean: Annotated[
        float | None,
        typer.Option(metavar="X", show_default="-0.2", help="Mean of the noise level's logarithm."),
    ] = None,
    noise_std: Annotated[float | None, number("1.4", "Its deviation, above 0.", 0)] = None,
    max_speed: Annotated[float | None, number("0.12", SPEED, 0)] = None,
    layers: Annotated[int | None, number("3", LAYERS)] = None,
    simple: Annotated[bool, typer.Option("--simple", help=SIMPLE)] = False,
    flow_weight: Annotated[float | None, number("0", FLOW, 0)] = None,
    seed: Annotated[int | None, number("0", SEED, 0)] = None,
    photos: Photos = None,
    init: Init = None,
    save_every: Annotated[int | None, number("200", SAVE)] = None,
    sample_every: Annotated[int | None, number("400", "Steps between sample sheets.")] = None,
    workers: Annotated[int | None, number("2", WORKERS)] = None,
    compile: Annotated[bool, typer.Option("--compile", help=COMPILE)] = False,
    device: options.Device = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train UNet and image encoder, with the autoencoder that `kinora train vae` left in DIR.

    Leaves DIR/model.safetensors, for `kinora animate --model`. The same command again goes on.
    """
    width, height = (None, None) if size is None else parse_size("size", size)
    given = _given(
        {
            "steps": steps,
            "width": width,
            "height": height,
            "frames": frames,
            "clips": clips,
            "batch": batch,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "warm_up": warm_up,
            "average": average,
            "crop": crop,
            "flow_weight": flow_weight,
            "noise_mean": noise_mean,
            "noise_std": noise_std,
            "seed": seed,
            "init": None if init is None else str(init),
            "save_every": save_every,
            "sample_every": sample_every,
            "workers": workers,
            "compile": compile,
            "device": device,
            "photos": _photos(photos),
        }
    )
    check_device(device)
    check_folder(run)
    from kinora.cli.report import reporting
    from kinora.synthetic import SceneConfig
    from kinora.train import UNetTraining, train_unet

    scenes = _given({"max_speed": max_speed, "layers": layers, "simple": simple or None})
    if scenes:
        given["scenes"] = SceneConfig(**scenes)
    settings = UNetTraining(**given)
    with out_of_memory("lower --size, --frames or --batch"), reporting(json, quiet) as report:
        finished = train_unet(settings, run, minutes=minutes, report=report)
    _end(finished, run / "model.safetensors", json)


def _given(values: Mapping[str, object]) -> dict[str, Any]:
    """What was said; the rest is left to the settings."""
    return {name: value for name, value in values.items() if value is not None}


def _photos(names: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(map(str, find_photos(names or ())))


def _end(finished: bool, path: Path, json: bool) -> None:
    """Say where the result lies."""
    if not finished:
        remark("Time is up, all is saved; the same command again goes on")
    if path.exists():
        result(jsonlib.dumps({"output": str(path)}) if json else str(path))
