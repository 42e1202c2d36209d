"""What changes between one step and the next: what could be used again, and at which noise levels.

    python -m benchmarks.changes --json changes.json --plot docs/performance/changes.png

Samples eight pairs of photo and seed with the bundled model and its own sampler and steps. At every
call of the UNet the difference from the call before, in root mean square over its own size, is
taken of what could be computed at some calls only: the answer itself, the difference that guidance
makes, what the inner blocks gave, and what each of the blocks adds to its residual stream.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor, nn

import kinora
from benchmarks.quality import PAIRS, finish
from kinora.runtime import PreparedUNet
from kinora.runtime.unet import Run
from kinora.types import Answers, Condition, Latents, PerClip

mpl.use("Agg")
import matplotlib.pyplot as plt

ANSWER, GUIDANCE, INNER = "answer", "guidance's difference", "inner blocks"


class Watching:
    """A prepared UNet that notes what changes from call to call."""

    def __init__(self, unet: PreparedUNet) -> None:
        self.unet = unet
        self.before: dict[str, Tensor] = {}
        self.found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        """Noise level and relative change, by what was watched."""
        self.level = 0.0
        for index, block in enumerate(unet.blocks()):
            kind = type(block).__name__.lower()
            block.register_forward_hook(self._added(f"block {index:02d} ({kind})"))

    def start_over(self) -> None:
        """A new clip has nothing to be compared with."""
        self.before.clear()

    def note(self, name: str, value: Tensor) -> None:
        if name in self.before:
            change = (value - self.before[name]).square().mean().sqrt()
            size = value.square().mean().sqrt()
            self.found[name].append((self.level, (change / size).item()))
        self.before[name] = value.clone()

    def _added(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(block: nn.Module, given: tuple[Any, ...], made: Tensor) -> None:
            same = given[0].shape == made.shape
            self.note(name, made - given[0] if same else made)

        return hook

    def __call__(self, x: Latents, c_noise: PerClip, condition: Condition, /) -> Answers:
        self.level = float(torch.exp(4 * c_noise[0]))
        run: Run = self.unet.run(x, c_noise, condition)
        without, given = run.answers.chunk(2)
        self.note(ANSWER, given)
        self.note(GUIDANCE, given - without)
        self.note(INNER, run.inner)
        return run.answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--photos", type=Path, default=Path("examples"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    pipeline = kinora.load(options.model)
    assert isinstance(pipeline.unet, PreparedUNet)
    watching = Watching(pipeline.unet)
    pipeline._network = lambda inner_every: watching  # pyright: ignore
    for seed, photo in PAIRS:
        watching.start_over()
        pipeline.animate(options.photos / f"{photo}.jpg", seed=seed)
    rows = summary(watching)
    print("| what | median change | at the highest levels | in the middle | at the lowest |")
    print("|---|---|---|---|---|")
    for row in rows:
        thirds = " | ".join(f"{part:.3f}" for part in row["thirds"])
        print(f"| {row['name']} | {row['ours']:.3f} | {thirds} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    if options.plot:
        draw(rows, options.plot)


def summary(watching: Watching) -> list[dict[str, Any]]:
    """By what was watched: medians over the pairs at each level, and over thirds of the steps."""
    rows: list[dict[str, Any]] = []
    for name, noted in sorted(watching.found.items(), key=lambda item: item[0].startswith("block")):
        by_level: dict[float, list[float]] = defaultdict(list)
        for level, change in noted:
            by_level[level].append(change)
        curve = [(level, statistics.median(found)) for level, found in by_level.items()]
        third = len(curve) // 3
        parts = curve[:third], curve[third:-third], curve[-third:]
        rows.append(
            {
                "name": name,
                "ours": statistics.median(change for _, change in curve),
                "unit": "relative change from call to call",
                "thirds": [statistics.median(change for _, change in part) for part in parts],
                "curve": curve,
            }
        )
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Change against noise level: thick what can be used again, thin each block by itself."""
    figure, axes = plt.subplots(figsize=(9, 6))
    blocks = [row for row in rows if row["name"].startswith("block")]
    shades = plt.get_cmap("viridis")
    for index, row in enumerate(blocks):
        depth = index / max(1, len(blocks) - 1)
        axes.plot(*zip(*row["curve"], strict=True), color=shades(depth), lw=0.7, alpha=0.7)
    for row in rows:
        if row not in blocks:
            axes.plot(*zip(*row["curve"], strict=True), "o-", lw=2.5, label=row["name"])
    axes.plot([], [], color=shades(0.5), lw=0.7, label="single blocks, first dark, last light")
    axes.set(xscale="log", yscale="log", xlabel="noise level σ", ylabel=rows[0]["unit"])
    axes.invert_xaxis()
    finish(figure, axes, path)


if __name__ == "__main__":
    main()
