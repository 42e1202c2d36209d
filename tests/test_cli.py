"""The command line: what is promised to people and to scripts."""

import io
import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from kinora import train
from kinora.cli import app, check, main
from kinora.clip import Clip
from kinora.config import NANO, TINY
from kinora.device import DTYPES
from kinora.media import photo
from kinora.media.video import DEFAULT_QUALITY
from kinora.train import Report, UNetTraining, VAETraining
from kinora.weights.variants import PUBLISHED
from tests.cli import Kinora, folder, kinora, model, write_photo
from tests.waiting import PATIENCE

__all__ = ["folder", "kinora", "model"]

LIGHT = """
import sys
from kinora.cli import main
for line in sys.stdin.read().splitlines():
    try:
        main(line.split())
    except SystemExit as end:
        print("code", end.code, file=sys.stderr)
heavy = {"torch", "numpy", "PIL", "av", "rich", "safetensors", "huggingface_hub"}
print("imported", heavy & set(sys.modules), file=sys.stderr)
print("ours", [n for n in sys.modules if n.startswith(("kinora.models", "kinora.weights"))],
      file=sys.stderr)
"""


def test_help_and_wrong_arguments_import_nothing_heavy() -> None:
    lines = [
        "--help",
        "animate --help",
        "train vae --help",
        "--version",
        "animate photo.jpg --frames 0",
        "animate photo.jpg --frames many",
        "animate photo.jpg --size 100by100",
        "animate photo.jpg --guidance nan",
        "animate photo.jpg --device tpu",
        "animate photo.jpg --model no-such-model",
        "animate photo.jpg --no-such-option",
        "convert a b --to cassette",
        "train unet --steps 0",
        "no-such-command",
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], input="\n".join(lines), capture_output=True, text=True
    )
    codes = [line for line in done.stderr.splitlines() if line.startswith("code")]
    assert codes == ["code 0"] * 4 + ["code 2"] * 5 + ["code 1"] + ["code 2"] * 4
    assert done.stderr.endswith("imported set()\nours []\n")


def test_a_photo_becomes_a_clip_of_the_next_free_name(
    kinora: Kinora, folder: Path, model: Path
) -> None:
    photos = folder / "photos"
    photos.mkdir()
    photo = write_photo(photos / "cat.png")
    for name in ("cat.mp4", "cat-2.mp4"):
        assert kinora("animate", photo, "--model", model) == (0, f"{name}\n", "")
    assert sorted(p.name for p in folder.iterdir()) == ["cat-2.mp4", "cat.mp4", "photos"]
    assert len(Clip.open("cat.mp4").frames) == 4


def test_what_is_done_within_a_memory_limit_is_told_once(
    kinora: Kinora, folder: Path, model: Path
) -> None:
    write_photo(folder / "cat.png")
    asked = ("animate", "cat.png", "--model", model, "--memory", "2GiB", "--seeds", 2)
    told = kinora(*asked, "-o", "a").err
    assert re.findall(r"Memory: \d+ MiB of 2\.0 GiB \(.*\); all networks stay in memory", told)
    assert told.count("Memory") == 1
    assert kinora(*asked, "-o", "b", "--quiet").err == ""


def test_every_option_reaches_the_recipe_and_the_recipe_makes_the_clip_again(
    kinora: Kinora, folder: Path, model: Path
) -> None:
    write_photo(folder / "cat.png")
    options = (
        "--frames 3 --size 32x40 --steps 2 --fps 9 --motion 30 --noise-aug 0.1 --guidance 1:2.5 "
        "--seed 5 --guidance-interval 0.1:50 --sampler heun --schedule exponential --fit pad "
        "--decode-chunk 2 --quality draft --guidance-every 4 --inner-every 3"
    )
    assert kinora("animate", "cat.png", "--model", model, "-o", "a", *options.split()).code == 0
    told = json.loads(kinora("info", "a", "--json").out)
    assert told["request"] == {
        "image": "cat.png",
        "frames": 3,
        "size": [32, 40],
        "steps": 2,
        "fps": 9,
        "motion": 30,
        "noise_aug": 0.1,
        "guidance": [1.0, 2.5],
        "seed": 5,
        "quality": "draft",
        "guidance_interval": [0.1, 50.0],
        "guidance_every": 4,
        "inner_every": 3,
        "sampler": "heun",
        "schedule": "exponential",
        "fit": "pad",
        "decode_chunk": 2,
    }
    again = shlex.split(told["again"])
    assert again[again.index("--model") + 1] == "MODEL", "tiny is no alias"
    again[again.index("--model") + 1] = str(model)
    assert kinora(*again[1:], "-o", "b").code == 0
    assert np.array_equal(Clip.open("a").frames, Clip.open("b").frames)
    assert "3 frames of 32x40, 9 a second" in kinora("info", "a", "--verify").out


def test_seeds_count_up_and_are_the_same_clips_alone(
    kinora: Kinora, folder: Path, model: Path
) -> None:
    for number, name in enumerate(("b.png", "a.png")):
        write_photo(folder / name, seed=number)
    (folder / "not.png").mkdir()
    made = kinora(
        "animate", "?.png", "--model", model, "--seed", 7, "--seeds", 2, "-o", "out", "--json"
    )
    assert made.code == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in made.out.splitlines()]
    assert [(line["output"], line["photo"], line["seed"]) for line in lines] == [
        ("out/a.mp4", "a.png", 7),
        ("out/a-2.mp4", "a.png", 8),
        ("out/b.mp4", "b.png", 7),
        ("out/b-2.mp4", "b.png", 8),
    ]
    assert all(line["seconds"] > 0 for line in lines)
    kinora("animate", "b.png", "--model", model, "--seed", 8, "-o", "alone.mp4")
    recipes = [Clip.open(name).recipe for name in ("alone.mp4", "out/b-2.mp4")]
    assert recipes[0] == recipes[1] == lines[3]["recipe"]
    clips = [Clip.open(name).frames for name in ("alone.mp4", "out/b-2.mp4")]
    assert np.array_equal(*clips)


def test_a_photo_of_several_seeds_is_read_once(
    kinora: Kinora, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, names = photo._read, list[str]()

    def counted(path: Path) -> bytes:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(photo, "_read", counted)
    write_photo(folder / "cat.png")
    asked = ("--model", model, "--steps", 1, "--seeds", 3, "-o", "out")
    assert kinora("animate", "cat.png", *asked).code == 0
    assert names == ["cat.png"]
    assert len(list((folder / "out").iterdir())) == 3


def test_a_seed_left_out_is_drawn_for_each_photo(kinora: Kinora, folder: Path, model: Path) -> None:
    for name in ("a.png", "b.png"):
        write_photo(folder / name)
    made = kinora("animate", "a.png", "b.png", "a.png", "--model", model, "--json", "--steps", 1)
    seeds = [json.loads(line)["seed"] for line in made.out.splitlines()]
    assert len(set(seeds)) == len(seeds) == 2


def test_a_named_clip_is_overwritten_only_when_asked(
    kinora: Kinora, folder: Path, model: Path
) -> None:
    write_photo(folder / "cat.png")
    run = ("animate", "cat.png", "--model", model, "--steps", 1, "-o", "new/clip.gif")
    assert kinora(*run) == (0, "new/clip.gif\n", "")
    before = (folder / "new" / "clip.gif").read_bytes()
    code, out, err = kinora(*run)
    assert (code, out) == (1, "")
    assert "exists already" in err
    assert "-y" in err
    assert (folder / "new" / "clip.gif").read_bytes() == before
    assert kinora(*run, "-y").code == 0
    assert (folder / "new" / "clip.gif").read_bytes() != before


def test_a_slash_at_the_end_means_into_the_folder(
    kinora: Kinora, folder: Path, model: Path
) -> None:
    write_photo(folder / "cat.png")
    made = kinora("animate", "cat.png", "--model", model, "--steps", 1, "-o", "clips/")
    assert made.out == "clips/cat.mp4\n"


def test_names_keep_their_bytes(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9 \xe7.png")
    write_photo(folder / "cat.png").rename(folder / name)
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, "utf-8"))
    with pytest.raises(SystemExit, match="0"):
        main(["animate", name, "--model", str(model), "--steps", "1"])
    assert pipe.getvalue() == b"caf\xe9 \xe7.mp4\n"


def test_warnings_of_ours_are_one_line_each_told_once(
    kinora: Kinora, folder: Path, model: Path
) -> None:
    write_photo(folder / "cat.png")
    made = kinora(
        *("animate", "cat.png", "--model", model, "--steps", 1, "--frames", 9, "--seeds", 2)
    )
    assert made.code == 0
    assert made.err.count("\n") == 1
    assert made.err.startswith("Warning: 9 frames: tiny was trained on 4")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_shows_progress_and_an_interrupted_run_leaves_nothing(
    folder: Path, model: Path, number: signal.Signals
) -> None:
    write_photo(folder / "cat.png")
    terminal, theirs = pty.openpty()
    command = [sys.executable, "-m", "kinora", "animate", "cat.png", "--model", str(model)]
    run = subprocess.Popen(
        [*command, "--steps", "1000", "-o", "new/clip.mp4"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    seen = b""
    while b"/1000" not in seen:
        assert select.select([terminal], [], [], PATIENCE)[0]
        seen += os.read(terminal, 65536)
    run.send_signal(number)
    while True:
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # closed
            break
    out, _ = run.communicate(timeout=PATIENCE)
    os.close(terminal)
    assert b"sampling cat.png" in seen
    assert (run.returncode, out) == (130, b"")
    assert seen.rstrip().endswith(b"Interrupted")
    assert [path.name for path in folder.iterdir()] == ["cat.png"]


def test_info_tells_a_checkpoint(kinora: Kinora, folder: Path, model: Path) -> None:
    told = json.loads(kinora("info", model, "--json").out)
    assert told["model"] == "tiny"
    assert told["complete"] is True
    assert told["defaults"]["steps"] == TINY.steps
    assert told["dtypes"] == {"float32": sum(told["parameters"].values())}
    code, out, err = kinora("info", model, "--verify")
    assert (code, err) == (0, "")
    assert "complete     yes" in out
    assert "SHA-256" in out


@pytest.mark.parametrize(("extra", "repeatable"), [({}, True), ({"sigmas": [9.0, 0.0]}, False)])
def test_only_what_options_can_say_is_said_again(
    kinora: Kinora, folder: Path, extra: dict[str, Any], repeatable: bool
) -> None:
    """Clips made by programs for other libraries have settings that are no options."""
    request = {"image": "cat.png", "seed": 3_000_000_000, **extra}
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    Clip(frames, 7, {"model": "nano", "request": request}).save("a.webp")
    assert ("again" in json.loads(kinora("info", "a.webp", "--json").out)) == repeatable
    assert "seed 3000000000" in kinora("info", "a.webp").out


def test_a_run_needs_a_folder(kinora: Kinora, folder: Path) -> None:
    (folder / "notes.txt").touch()
    for part in ("vae", "unet"):
        refused = kinora("train", part, "--run", "notes.txt")
        assert refused.code == 2
        assert "notes.txt: is a file; name a folder" in refused.err


def test_training_in_json_ends_with_the_file_in_json(
    kinora: Kinora, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(_: VAETraining, run: Path, **__: object) -> bool:
        (run / "vae").mkdir(parents=True)
        (run / "vae" / "vae.safetensors").touch()
        return True

    monkeypatch.setattr(train, "train_vae", fake)
    made = json.loads(kinora("train", "vae", "--run", "r", "--json").out)
    assert Path(made["output"]) == Path("r/vae/vae.safetensors")
    assert Path(kinora("train", "vae", "--run", "s").out.strip()) == Path("s/vae/vae.safetensors")


def test_info_tells_of_pictures_and_of_videos_without_recipe(kinora: Kinora, folder: Path) -> None:
    write_photo(folder / "cat.png")
    assert kinora("info", "cat.png") == (0, "cat.png\n  kind         picture\n", "")
    write_photo(folder / "cat.gif")
    told = json.loads(kinora("info", "cat.gif", "--json").out)
    assert told == {"path": "cat.gif", "kind": "clip", "recipe": None}


def test_models_are_listed_with_state_and_licence(kinora: Kinora) -> None:
    code, out, err = kinora("models")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["MODEL", "nano", *PUBLISHED]
    assert "Apache-2.0" in lines[1]
    assert all("Stability AI Community License" in line for line in lines[2:])
    told = [json.loads(line) for line in kinora("models", "--json").out.splitlines()]
    assert [entry["model"] for entry in told] == ["nano", *PUBLISHED]
    assert {entry["state"] for entry in told} <= {"bundled", "missing", "cached", "to download"}


def test_convert_writes_another_format_and_never_over_something(
    kinora: Kinora, folder: Path, model: Path
) -> None:
    half = ("convert", model, "half.safetensors", "--to", "kinora", "--dtype", "float16")
    assert kinora(*half) == (0, "half.safetensors\n", "")
    told = json.loads(kinora("info", "half.safetensors", "--json").out)
    assert set(told["dtypes"]) == {"float16"}
    again = kinora(*half)
    assert again.code == 1
    assert "exists already" in again.err
    assert kinora(*half, "-y").code == 0
    refused = kinora("convert", model, "folder", "--to", "diffusers")
    assert refused.code == 1
    assert "norm groups" in refused.err
    assert sorted(p.name for p in folder.iterdir()) == ["half.safetensors"]


def test_train_hands_on_what_it_is_told(
    kinora: Kinora, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = write_photo(folder / "cat.png")
    calls: list[tuple[object, ...]] = []

    def fake(settings: object, folder: Path, *, minutes: float | None, report: Report) -> bool:
        calls.append((settings, folder, minutes))
        report(train.Progress(stage="train", step=3, steps=9, values={"loss": 0.5}))
        return minutes is None

    monkeypatch.setattr(train, "train_vae", fake)
    monkeypatch.setattr(train, "train_unet", fake)
    assert kinora("train", "vae") == (0, "", "train 3/9 · loss 0.5\n")
    stopped = kinora(
        *("train", "unet", "--run", "r", "--size", "96x64", "--steps", 7, "--minutes", 0.5),
        *("--photos", "*.png", "--device", "cpu", "--init", "other", "--batch", 3, "--quiet"),
    )
    assert stopped.err == "Time is up, all is saved; the same command again goes on\n"
    told = json.loads(kinora("train", "vae", "--json", "--learning-rate", 0.1).out)
    assert (told["step"], told["values"]) == (3, {"loss": 0.5})
    assert calls == [
        (VAETraining(), Path("runs/mine"), None),
        (
            UNetTraining(
                width=96,
                height=64,
                steps=7,
                photos=(photo.name,),
                device="cpu",
                init="other",
                batch=3,
            ),
            Path("r"),
            0.5,
        ),
        (VAETraining(learning_rate=0.1), Path("runs/mine"), None),
    ]


def test_help_states_the_defaults_that_hold() -> None:
    groups: Any = typer.main.get_command(app)
    commands = groups.commands["train"].commands
    for name, settings in (("vae", VAETraining()), ("unet", UNetTraining())):
        said = {option.name: option.show_default for option in commands[name].params}
        for field in fields(settings):
            if isinstance(said.get(field.name), str) and field.name not in (
                "device",
                "photos",
                "init",
                "size",
                "crop",
            ):
                value = getattr(settings, field.name)
                assert type(value)(said[field.name]) == value, field.name
    options = {option.name: option for option in groups.commands["animate"].params}
    assert options["video_quality"].default == str(DEFAULT_QUALITY)
    assert options["model"].default == NANO.name
    assert tuple(DTYPES) == check.PRECISIONS
    assert tuple(PUBLISHED) == check.VARIANTS
    undocumented = [
        f"{command.name} {option.name}"
        for command in (*groups.commands.values(), *commands.values())
        for option in command.params
        if not option.help
    ]
    assert undocumented == []


def test_what_other_programs_would_assume_wrongly_is_said_on_stderr(
    kinora: Kinora, folder: Path, model: Path
) -> None:
    asked = ("convert", model, "b.safetensors", "--to", "sgm", "--unknown-settings", "note")
    outcome = kinora(*asked)
    assert (outcome.code, outcome.out) == (0, "b.safetensors\n")
    (warning,) = [line for line in outcome.err.splitlines() if line.startswith("Warning: ")]
    assert "the unet's attention heads are 16 wide; they assume 64" in warning
    assert "scaled" not in warning, "TINY has the published scale"
