"""How time and memory grow with frames and pixels, and whether memory is as it was predicted.

    python -m benchmarks.growth --json growth.json --plot docs/performance/growth.png

Makes clips of two steps with a full-size model of random numbers, each in a fresh process: seconds
of the second step (both halves of guidance; the first one waits for weights) and of decoding, the
most that the process held (on a GPU, that torch held) and what the planner had said before. Run
from the root of the repository, with the test and benchmark extras installed; writes 5 GB to a
temporary folder unless --folder names one.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from tests import parity_full_size

import kinora
from benchmarks.resident import resident
from kinora.events import Decoded, Planned, Sampled
from kinora.request import Request
from kinora.runtime import plan

mpl.use("Agg")
import matplotlib.pyplot as plt

GIB = 2**30
LITTLE, PLENTY = 1 << 20, 1 << 50
ALL = "all in memory"
Shape = tuple[int, int, int]
"""Frames, width, height."""
FRAMES = (7, 14, 25, 50)
SIZES = ((128, 128), (192, 128), (256, 192), (320, 256))


@dataclass(frozen=True)
class Measured:
    """One clip."""

    frames: int
    width: int
    height: int
    way: str
    step: float
    """Seconds of one call of the UNet for both halves of guidance."""
    decoding: float
    peak: float
    """GiB."""
    predicted: float

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def name(self) -> str:
        return f"{self.frames} frames of {self.width}x{self.height}, {self.way}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a checkpoint, such as an earlier run's")
    parser.add_argument("--device")
    parser.add_argument("--frames", type=int, nargs="+", default=FRAMES, help="at the second size")
    parser.add_argument("--sizes", nargs="+", help="WIDTHxHEIGHT, of 14 frames")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    sizes = [parse_size(text) for text in options.sizes or ()] or SIZES
    usual = sizes[min(1, len(sizes) - 1)]
    shapes = [(frames, *usual) for frames in options.frames]
    shapes += [(14, *size) for size in sizes if (14, *size) not in shapes]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None:
            parity_full_size.apart(parity_full_size.write_checkpoint, folder)
        found: list[Measured] = []
        print("| what | s a step | s decoding | peak GiB | predicted | predicted / peak |")
        print("|---|---|---|---|---|---|", flush=True)
        for way in plan.WAYS:
            for shape in shapes if way == plan.WAYS[0] else shapes[:1]:
                m = fresh(folder, options.device, shape, way)
                found.append(m)
                print(
                    f"| {m.name} | {m.step:.1f} | {m.decoding:.1f} | {m.peak:.2f} "
                    f"| {m.predicted:.2f} | {m.predicted / m.peak:.3f} |",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps([line for m in found for line in rows(m)], indent=1))
    if options.plot:
        draw([m for m in found if m.way == ALL], usual, options.plot)


def parse_size(text: str) -> tuple[int, int]:
    width, height = map(int, text.split("x"))
    return width, height


def fresh(folder: Path, device: str | None, shape: Shape, way: dict[str, bool]) -> Measured:
    """Measure in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, folder, device, shape, way).result()


def measure(folder: Path, device: str | None, shape: Shape, way: dict[str, bool]) -> Measured:
    """way: of `plan.WAYS`; no other is thought of."""
    torch.set_num_threads(2)
    plan.WAYS = (way,)
    frames, width, height = shape
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    request = Request(image=photo, frames=frames, size=(width, height), steps=2, seed=0)
    # With so little, nothing is loaded before it works: what is measured is the clip's own peak.
    pipe = kinora.load(folder, device=device, memory=LITTLE)
    pipe.residency.limit = PLENTY
    at: list[tuple[type, float]] = []
    predicted = 0
    for event in pipe.stream(request):
        at.append((type(event), time.perf_counter()))
        if isinstance(event, Planned):
            predicted = event.memory.peak
    cuda = pipe.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")
    first, second = (when for what, when in at if what is Sampled)
    step, decoding = second - first, dict(at)[Decoded] - second
    return Measured(*shape, " ".join(way) or ALL, step, decoding, peak / GIB, predicted / GIB)


def rows(m: Measured) -> list[dict[str, float | str]]:
    """Lines of the JSON file."""
    return [
        {"name": f"{m.name}, step", "ours": m.step, "unit": "s"},
        {"name": f"{m.name}, decoding", "ours": m.decoding, "unit": "s"},
        {
            "name": f"{m.name}, peak, as measured and as predicted",
            "ours": m.peak,
            "theirs": m.predicted,
            "unit": "GiB",
            "ratio": m.peak / m.predicted,
        },
    ]


def draw(found: Sequence[Measured], usual: tuple[int, int], path: Path) -> None:
    """Time and memory against frames, and against pixels."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7))
    columns = (
        ("frames", [m for m in found if (m.width, m.height) == usual]),
        ("pixels", [m for m in found if m.frames == 14]),
    )
    for (what, line), (above, below) in zip(columns, axes.T, strict=True):
        line = sorted(line, key=lambda m: getattr(m, what))
        x = [getattr(m, what) for m in line]
        above.plot(x, [m.step for m in line], "o-", label="a step of the UNet, both halves")
        above.plot(x, [m.decoding for m in line], "o-", label="decoding")
        below.plot(x, [m.peak for m in line], "o-", label="peak, measured")
        below.plot(x, [m.predicted for m in line], "x--", label="peak, predicted")
        above.set(ylabel="seconds", ylim=(0, None))
        below.set(ylabel="GiB", xlabel=what, ylim=(0, None))
        for axis in (above, below):
            axis.grid(alpha=0.3)
            axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
