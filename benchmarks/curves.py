"""Draw what a training run reported: the loss curves of docs/nano.md.

    python -m benchmarks.curves runs/frames/vae/log.jsonl --keys "psnr of photos" loss -o vae.png

Several logs, of runs that started from one another, are drawn one after the other.
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt


def curves(paths: list[Path]) -> dict[str, tuple[list[int], list[float]]]:
    """Every value that was reported, with its steps."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    before = 0
    for path in paths:
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        trained = [entry for entry in entries if entry["stage"] in ("train", "check")]
        for entry in trained:
            for name, value in entry["values"].items():
                steps, values = found.setdefault(name, ([], []))
                steps.append(before + entry["step"])
                values.append(value)
        before += max(entry["step"] for entry in trained)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--keys", nargs="+", help="which values; all but the rate when left out")
    parser.add_argument("--log", action="store_true", help="values on a logarithmic axis")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    found = curves(options.logs)
    keys = options.keys or [key for key in found if key != "rate"]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for key in keys:
        axes.plot(*found[key], label=key)
    axes.set_xlabel("step")
    axes.set_yscale("log" if options.log else "linear")
    axes.grid(alpha=0.3)
    axes.legend()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=100)


if __name__ == "__main__":
    main()
