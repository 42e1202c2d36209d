"""How far quicker ways to sample come from the exact solution, on the bundled model.

    python -m benchmarks.quality --json quality.json --plot docs/performance/quality.png

Samples eight pairs of photo and seed with every way, and compares latents and frames with those
of 200 steps. What a way costs is counted in calls: the UNet's floating-point operations, over
those of one call for both halves of guidance. Samplers that add noise on the way solve another
equation and are left out.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import kinora
from kinora.config import NANO
from kinora.events import Done, Sampled
from kinora.pipeline import Pipeline
from kinora.request import QUALITIES, Request

mpl.use("Agg")
import matplotlib.pyplot as plt

PHOTOS = ("rocket", "coffee", "astronaut")
PAIRS = tuple(itertools.islice(itertools.product(range(3), PHOTOS), 8))
REFERENCE = 200
"""Steps of the solution that others are compared with."""
COUNTS = (3, 4, 5, 6, 8, 10, 14, 20)


@dataclass(frozen=True)
class Way:
    """A way to sample: the curve that it is a point of, and what it asks for."""

    curve: str
    asked: Mapping[str, Any]

    @property
    def name(self) -> str:
        return " ".join(f"{key} {value}" for key, value in self.asked.items()) or "default"


def ways() -> list[Way]:
    found = [
        Way(sampler, {"sampler": sampler, "steps": steps})
        for sampler in ("euler", "dpmpp-2m", "adams")
        for steps in COUNTS
    ]
    found += [Way("heun", {"sampler": "heun", "steps": steps}) for steps in (3, 4, 5, 7, 10)]
    adams = [{"sampler": "adams", "steps": steps} for steps in (5, 8, 10, 14)]
    for reuse in (
        {"schedule": "exponential"},
        {"schedule": "ays"},
        {"guidance_every": 2},
        {"guidance_every": 3},
        {"inner_every": 2},
        {"inner_every": 3},
        {"guidance_every": 2, "inner_every": 2},
        {"guidance_interval": (0.2, 20.0)},
        {"guidance_interval": (0.5, 5.0)},
    ):
        curve = "adams, " + " ".join(f"{key} {value}" for key, value in reuse.items())
        found += [Way(curve, {**plain, **reuse}) for plain in adams]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--photos", type=Path, default=Path("examples"))
    parser.add_argument("--curves", nargs="+", help="of them only")
    parser.add_argument("--json", type=Path, help="written after every way; those in it are kept")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.json and options.json.exists():
        rows = json.loads(options.json.read_text())
    wanted = [way for way in ways() if not options.curves or way.curve in options.curves]
    wanted = [way for way in wanted if way.name not in {r["name"] for r in rows}]
    if wanted:
        measure(wanted, rows, Bench(kinora.load(options.model), options.photos), options.json)
    print("| quality | is | calls | latent rms | of the default's | PSNR of frames, dB |")
    print("|---|---|---|---|---|---|")
    for quality, r in qualities(rows).items():
        print(f"| {quality} {line(r)}")
    if options.plot:
        draw(rows, options.plot)


def measure(
    wanted: Sequence[Way], rows: list[dict[str, Any]], bench: "Bench", path: Path | None
) -> None:
    """Add a row for each way."""
    exact, usual = bench.run({"sampler": "adams", "steps": REFERENCE}), bench.run({})
    print("| way | calls | latent rms | of the default's | PSNR of frames, dB |")
    print("|---|---|---|---|---|", flush=True)
    for way in wanted:
        rows.append(row(way, bench.run(way.asked), usual, exact))
        print(line(rows[-1]), flush=True)
        if path is not None:
            path.write_text(json.dumps(rows, indent=1))


def line(r: Mapping[str, Any]) -> str:
    return (
        f"| {r['name']} | {r['calls']:.1f} | {r['ours']:.4f} | {r['ratio']:.3f} "
        f"({r['low']:.3f}-{r['high']:.3f}) | {r['psnr']:.1f} |"
    )


def qualities(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The rows that the qualities are: each asks for what one of the ways does."""
    usual = {"sampler": "euler", "steps": NANO.steps}
    names = {quality: Way("", {**usual, **asked}).name for quality, asked in QUALITIES.items()}
    by_name = {r["name"]: r for r in rows}
    return {quality: by_name[name] for quality, name in names.items() if name in by_name}


class Bench:
    """A model and the photos."""

    def __init__(self, pipe: Pipeline, photos: Path) -> None:
        self.pipe, self.photos = pipe, photos
        pipe.residency.settle()  # the counter doesn't know the kernels of packed weights

    @cached_property
    def cost(self) -> tuple[float, float]:
        """Floating-point operations of a call of the UNet, and of encoding and decoding."""
        one, two = (self.run({"steps": steps}, pairs=1).flops for steps in (1, 2))
        return two - one, 2 * one - two

    def run(self, asked: Mapping[str, Any], pairs: int = len(PAIRS)) -> "Found":
        made: list[tuple[Tensor, np.ndarray]] = []
        with FlopCounterMode(display=False) as counter:
            made.append(self.one(*PAIRS[0], asked))
        made += [self.one(*pair, asked) for pair in PAIRS[1:pairs]]
        return Found(self, counter.get_total_flops(), *zip(*made, strict=True))

    def one(self, seed: int, photo: str, asked: Mapping[str, Any]) -> tuple[Tensor, np.ndarray]:
        """The latents, which the last estimate is, and the frames."""
        request = Request(image=self.photos / f"{photo}.jpg", seed=seed, **asked)
        *_, last, done = (e for e in self.pipe.stream(request) if isinstance(e, Sampled | Done))
        assert isinstance(last, Sampled)
        assert isinstance(done, Done)
        return last.denoised, done.clips[0].frames


@dataclass(frozen=True)
class Found:
    """What a way gave: of each pair the latents and the frames."""

    bench: Bench
    flops: float
    latents: Sequence[Tensor]
    frames: Sequence[np.ndarray]

    @property
    def calls(self) -> float:
        call, rest = self.bench.cost
        return (self.flops - rest) / call

    def rms(self, exact: "Found") -> list[float]:
        """Of each pair, the root of the mean squared error of the latents."""
        pairs = zip(self.latents, exact.latents, strict=True)
        return [(found - right).square().mean().sqrt().item() for found, right in pairs]

    def differences(self, exact: "Found") -> np.ndarray:
        """Of all bytes of all frames."""
        found, right = (np.stack(f).astype(np.float64) for f in (self.frames, exact.frames))
        return found - right


def row(way: Way, found: Found, usual: Found, exact: Found) -> dict[str, Any]:
    """A line of the table: this way beside the model's own sampler and steps."""
    ours, theirs = found.rms(exact), usual.rms(exact)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    apart = found.differences(exact)
    return {
        "name": way.name,
        "curve": way.curve,
        "calls": found.calls,
        "ours": statistics.median(ours),
        "theirs": statistics.median(theirs),
        "unit": "latent rms",
        "ratio": middle,
        "low": low,
        "high": high,
        "psnr": float(10 * np.log10(255**2 / max((apart**2).mean(), 1e-9))),
        "max_error": float(np.abs(apart).max() / 255),
    }


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Error against calls, a curve for each family of ways."""
    figure, axes = plt.subplots(figsize=(9, 6))
    for curve in dict.fromkeys(r["curve"] for r in rows):
        points = sorted((r["calls"], r["ours"]) for r in rows if r["curve"] == curve)
        axes.plot(*zip(*points, strict=True), "o-" if "," not in curve else "x--", label=curve)
    for quality, r in qualities(rows).items():
        axes.plot(r["calls"], r["ours"], "k*", markersize=13, zorder=9)
        axes.annotate(quality, (r["calls"], r["ours"]), xytext=(6, 6), textcoords="offset points")
    axes.set(xscale="log", yscale="log", xlabel="calls of the UNet, both halves of guidance")
    axes.set_ylabel(f"rms of latents from {REFERENCE} steps (latents have variance 1)")
    finish(figure, axes, path)


def finish(figure: Figure, axes: Axes, path: Path) -> None:
    """A grid and a legend, and into the file."""
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
