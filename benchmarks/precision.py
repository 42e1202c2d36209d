"""How far other number formats come from fp32, on the bundled model and a CPU.

    python -m benchmarks.precision --json precision.json

The same eight pairs of photo and seed as `benchmarks.quality`, with the model's own sampler and
steps. float8 is what `--quantize float8` computes on a GPU, worked out in fp32: weights and what
they are multiplied with are rounded to float8 (e4m3) with a scale for each row.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import kinora
from benchmarks.quality import PAIRS, Bench
from kinora.pipeline import Pipeline
from kinora.runtime import PreparedUNet, quantised
from kinora.runtime.packed import Packed
from kinora.weights import load_networks

FLOAT8 = torch.float8_e4m3fn


class Float8:
    """Weights of a linear layer as a GPU multiplies them in float8, computed in fp32."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.nbytes = to_float8(weight), weight.numel()

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(to_float8(x), self.weight, bias)

    def dense(self) -> Tensor:
        return self.weight

    def fits(self, x: Tensor) -> bool:
        return True


def to_float8(x: Tensor) -> Tensor:
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / torch.finfo(FLOAT8).max
    return (x / scale).to(FLOAT8).to(x.dtype) * scale


def in_float8(model: str) -> Pipeline:
    def prepare(name: str, tensor: Tensor) -> Tensor:
        chosen = quantised.is_quantised(name, tuple(tensor.shape))
        return Packed(tensor, Float8(tensor)) if chosen else tensor

    cpu = torch.device("cpu")
    networks = load_networks(model, device=cpu, dtype=torch.float32, prepare=prepare)
    return Pipeline(networks, PreparedUNet(networks.unet), quantize="float8")


FORMATS: dict[str, Callable[[str], Pipeline]] = {
    "bfloat16": lambda model: kinora.load(model, device="cpu", dtype="bfloat16"),
    "float16": lambda model: kinora.load(model, device="cpu", dtype="float16"),
    "int8 linear layers": lambda model: kinora.load(model, device="cpu", quantize="int8"),
    "float8 linear layers": in_float8,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--photos", type=Path, default=Path("examples"))
    parser.add_argument("--only", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    exact = clips(kinora.load(options.model, device="cpu"), options.photos)
    rows: list[dict[str, Any]] = []
    print("| format | latent rms | PSNR of frames, dB | largest difference of a byte |")
    print("|---|---|---|---|", flush=True)
    for name in options.only:
        found = clips(FORMATS[name](options.model), options.photos)
        rms = [(a - b).square().mean().sqrt().item() for (a, _), (b, _) in zip(found, exact,
               strict=True)]  # fmt: skip
        apart = np.stack([a.astype(float) - b for (_, a), (_, b) in zip(found, exact, strict=True)])
        row = {
            "name": name,
            "ours": float(np.median(rms)),
            "unit": "latent rms",
            "low": min(rms),
            "high": max(rms),
            "psnr": float(10 * np.log10(255**2 / (apart**2).mean())),
            "max_error": float(np.abs(apart).max() / 255),
        }
        rows.append(row)
        print(
            f"| {name} | {row['ours']:.5f} ({row['low']:.5f}-{row['high']:.5f}) "
            f"| {row['psnr']:.1f} | {np.abs(apart).max():.0f} |",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))


def clips(pipeline: Pipeline, photos: Path) -> list[tuple[Tensor, np.ndarray]]:
    """Of each pair the latents and the frames."""
    bench = Bench(pipeline, photos)
    return [bench.one(*pair, {}) for pair in PAIRS]


if __name__ == "__main__":
    main()
