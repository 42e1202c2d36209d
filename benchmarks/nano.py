"""How well the bundled model animates: first frame, motion, coherence, sharpness, variety.

    python -m benchmarks.nano [--model nano] [--json out.json] [--sheets docs/nano]

Animates the photos in examples/ and some made-up scenes that training never saw, at five motions
with four seeds each, and prints the figures that docs/nano.md shows, with contact sheets.
"""

import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

import kinora
from benchmarks.motion import (
    Frames,
    mean_motion,
    psnr,
    sharpness,
    spearman,
    speed,
    warp_psnr,
)
from kinora.media import fit, load_photo
from kinora.pipeline import Pipeline
from kinora.pixels import quantise
from kinora.synthetic import SceneConfig, make_clips

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOS = ("rocket", "coffee", "astronaut")
MOTIONS = (10, 60, 120, 180, 240)
SEEDS = (0, 1, 2, 3)
UNSEEN = 3
"""Made-up scenes; training draws its own from other seeds."""

Clips = dict[tuple[int, int], Frames]
"""By motion and seed."""


def pictures(pipe: Pipeline) -> dict[str, np.ndarray]:
    """Every photo and scene at the model's size."""
    size = pipe.config.width, pipe.config.height
    found = {name: fit(load_photo(EXAMPLES / f"{name}.jpg"), size) for name in PHOTOS}
    scenes = make_clips(SceneConfig(width=size[0], height=size[1], frames=1), UNSEEN, 987_654)
    for index, frames in enumerate(quantise(scenes.frames)):
        found[f"scene {index + 1}"] = frames[0]
    return found


def animate(pipe: Pipeline, picture: np.ndarray) -> Clips:
    size = picture.shape[1], picture.shape[0]
    return {
        (motion, seed): pipe.animate(picture, motion=motion, seed=seed, size=size).frames
        for motion in MOTIONS
        for seed in SEEDS
    }


def judge(picture: np.ndarray, clips: Clips) -> dict[str, float]:
    """Means over the seeds, and over the motions where they don't matter."""
    moved = [float(np.mean([speed(clips[m, s]) for s in SEEDS])) for m in MOTIONS]
    lively = [clips[180, seed] for seed in SEEDS]
    ways = [mean_motion(clip) for clip in lively]
    cosines = [
        float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-9))
        for a, b in itertools.combinations(ways, 2)
    ]
    return {
        "first frame dB": float(np.mean([psnr(clip[0], picture) for clip in clips.values()])),
        "spearman": spearman(list(MOTIONS), moved),
        "highest/lowest": moved[-1] / max(moved[0], 1e-9),
        **{f"speed at {m}": v for m, v in zip(MOTIONS, moved, strict=True)},
        "warp dB": float(np.mean([warp_psnr(clip) for clip in lively])),
        "sharpness last/first": float(
            np.mean([sharpness(clip[-1]) / max(sharpness(clip[0]), 1e-9) for clip in lively])
        ),
        "pairs of seeds below 0.9": float(np.mean([c < 0.9 for c in cosines])),
    }


def sheet(picture: np.ndarray, clips: Clips, seed: int) -> Image.Image:
    """The photo, then the frames; a row a motion."""
    rows = [np.concatenate([picture, *clips[motion, seed]], axis=1) for motion in MOTIONS]
    return Image.fromarray(np.concatenate(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    options = parser.parse_args()

    pipe = kinora.load(options.model)
    rows: list[dict[str, object]] = []
    for name, picture in pictures(pipe).items():
        start = time.monotonic()
        clips = animate(pipe, picture)
        seconds = (time.monotonic() - start) / len(clips)
        found = judge(picture, clips)
        rows.append({"name": name, **found, "seconds a clip": seconds})
        print(name, *(f"{key} {value:.2f}" for key, value in found.items()), sep=" · ", flush=True)
        if options.sheets:
            options.sheets.mkdir(parents=True, exist_ok=True)
            sheet(picture, clips, SEEDS[0]).save(options.sheets / f"{name.replace(' ', '-')}.png")
    for group, chosen in (("photos", rows[: len(PHOTOS)]), ("scenes", rows[len(PHOTOS) :])):
        keys = [key for key in rows[0] if key != "name"]
        mean = {key: float(np.mean([row[key] for row in chosen])) for key in keys}
        rows.append({"name": f"mean of {group}", **mean})
        print(f"mean of {group}", *(f"{k} {v:.2f}" for k, v in mean.items()), sep=" · ")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
