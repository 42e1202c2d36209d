"""Whole clips on a GPU: each of our qualities beside diffusers, eager and compiled.

    python -m benchmarks.gpu --json gpu.json

From a photo to frames with a full-size model of random numbers in fp16: 25 frames of 1024x576 in
25 steps. Every line is printed and written as soon as it is measured, so that a machine that is
lent for minutes leaves what there was time for. Seconds are of the last of --runs clips, after a
short one; memory is the most that torch held. The last column is the share of this GPU's own rate
at large products of bf16 matrices that the clip's arithmetic (as the exact quality counts it)
came to. Run from the root of the repository, with the test and benchmark extras installed.
"""

import argparse
import gc
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tests import parity, parity_full_size
from torch.utils.flop_counter import FlopCounterMode

import kinora
from kinora.config import ModelConfig
from kinora.models import VideoAutoencoder, VideoUNet
from kinora.request import QUALITIES
from kinora.runtime import PreparedUNet
from kinora.runtime.sizes import SIZES
from kinora.types import Condition
from kinora.weights import load_networks

GUIDANCE = (1.0, 3.0)
Make = Callable[[int], object]
"""A clip in so many steps."""


@dataclass(frozen=True)
class Task:
    """What is made, where, and of what."""

    folder: Path
    device: torch.device
    frames: int
    width: int
    height: int
    steps: int

    @property
    def photo(self) -> Image.Image:
        pixels = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)
        return Image.fromarray(pixels).resize((self.width, self.height))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a diffusers folder, such as an earlier run's")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--size", default="1024x576")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="names of lines")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None:
            parity_full_size.write_checkpoint(folder)
        task = Task(
            folder, torch.device(options.device), options.frames, width, height, options.steps
        )
        found: list[dict[str, Any]] = []
        print("| clip | seconds | GiB | of diffusers' time | share of the matrix rate |")
        print("|---|---|---|---|---|", flush=True)
        for name, load in contenders(task):
            if options.only and name not in options.only:
                continue
            try:
                found.append(measure(task, name, load, options.runs))
            except Exception as error:  # the others are still to be measured
                print(f"| {name} | not possible: {type(error).__name__}: {error} |", flush=True)
                clear(task.device)
                continue
            compare(task, found)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1))


def contenders(task: Task) -> Iterator[tuple[str, Callable[[], Make]]]:
    """Names, and what loads each; diffusers first, with which the others are compared."""
    yield "diffusers", lambda: their_clips(task, compiled=False)
    for quality in QUALITIES:
        yield quality, lambda quality=quality: our_clips(task, quality)
    yield "exact compiled", lambda: our_clips(task, "exact", compiled=True)
    for amount in ("6 GiB", "5 GiB", "4.7 GiB"):
        yield (
            f"exact within {amount}",
            lambda amount=amount: our_clips(task, "exact", memory=amount),
        )
    yield "exact in fp32", lambda: our_clips(task, "exact", dtype="float32")
    yield "exact in tf32", lambda: our_clips(task, "exact", dtype="float32", tf32=True)
    for tile in SIZES["cuda"].tiles:
        name = f"decoding alone, tiles of {tile >> 20} MiB"
        yield name, lambda tile=tile: our_decoding(task, tile)
    yield "diffusers compiled", lambda: their_clips(task, compiled=True)
    yield "fast compiled", lambda: our_clips(task, "fast", compiled=True)
    for kind in ("float8", "int8"):
        yield (
            f"exact compiled {kind}",
            lambda kind=kind: our_clips(
                task, "exact", compiled=True, quantize=kind, dtype="bfloat16"
            ),
        )


def their_clips(task: Task, *, compiled: bool) -> Make:
    pipeline = parity.diffusers_pipeline(task.folder).to(task.device, torch.float16)
    if compiled:
        pipeline.unet = torch.compile(pipeline.unet)

    def make(steps: int) -> object:
        return pipeline(
            task.photo,
            task.height,
            task.width,
            num_frames=task.frames,
            num_inference_steps=steps,
            min_guidance_scale=GUIDANCE[0],
            max_guidance_scale=GUIDANCE[1],
            generator=torch.Generator().manual_seed(0),
        ).frames

    return make


def our_clips(task: Task, quality: str, **options: Any) -> Make:  # noqa: ANN401
    asked = {"device": str(task.device), "dtype": "float16", **options}
    pipeline = kinora.load(task.folder, **asked)

    def make(steps: int) -> object:
        return pipeline.animate(
            task.photo,
            size=(task.width, task.height),
            frames=task.frames,
            quality=quality,
            steps=None if quality != "exact" else steps,
            guidance=GUIDANCE,
            seed=0,
        )

    return make


def our_decoding(task: Task, tile: int) -> Make:
    """Of a whole clip, with tiles of so many bytes; the steps don't count."""
    pipeline = kinora.load(task.folder, device=str(task.device), dtype="float16")
    config = pipeline.config.vae
    sides = (task.height // config.factor, task.width // config.factor)
    latents = torch.randn(1, task.frames, config.latent_channels, *sides, device=task.device)

    def make(steps: int) -> object:
        return list(pipeline.decode(latents, keep=0, tile=tile))

    return make


def measure(task: Task, name: str, load: Callable[[], Make], runs: int) -> dict[str, Any]:
    """A line: seconds and memory of a clip."""
    make = load()
    make(2)
    cuda = task.device.type == "cuda"
    seconds: list[float] = []
    for _ in range(runs):
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        make(task.steps)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else float("nan")
    del make
    clear(task.device)
    return {"name": name, "ours": seconds[-1], "unit": "s", "peak": peak}


def clear(device: torch.device) -> None:
    """Give back the memory of what is no longer used."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def compare(task: Task, found: Sequence[dict[str, Any]]) -> None:
    """Add to the last line what it means, and print it."""
    line = found[-1]
    peers = [f["ours"] for f in found if f["name"] == "diffusers"]
    whole = not line["name"].startswith("decoding")
    if peers and whole:
        line["theirs"], line["ratio"] = peers[0], line["ours"] / peers[0]
    if whole:
        line["share"] = arithmetic(task) / line["ours"] / matrix_rate(task.device)
    print(
        f"| {line['name']} | {line['ours']:.2f} | {line['peak']:.2f} "
        f"| {line.get('ratio', float('nan')):.3f} | {line.get('share', float('nan')):.3f} |",
        flush=True,
    )


@lru_cache
def arithmetic(task: Task) -> float:
    """Floating-point operations of a clip: every step's UNet, both halves, and the decoder."""
    config = config_of(task.folder)
    sides = (task.height // config.vae.factor, task.width // config.vae.factor)
    channels = config.unet.latent_channels
    with torch.device("meta"), torch.no_grad():
        unet, vae = PreparedUNet(VideoUNet(config.unet)), VideoAutoencoder(config.vae)
        latents = torch.empty(1, task.frames, channels, *sides)
        condition = Condition(
            torch.empty(2, 1, channels, *sides),
            torch.empty(2, 1, config.unet.context_dim),
            torch.empty(2, config.unet.vector_ids),
        )
        with FlopCounterMode(display=False) as sampling:
            unet(latents, torch.empty(1), condition)
        with FlopCounterMode(display=False) as decoding:
            vae.decode(latents)
    return task.steps * sampling.get_total_flops() + decoding.get_total_flops()


def config_of(folder: Path) -> ModelConfig:
    cpu = torch.device("cpu")
    return load_networks(folder, device=cpu, dtype=torch.float32, empty=True).config


@lru_cache
def matrix_rate(device: torch.device) -> float:
    """Operations a second in products of large bf16 matrices, the best of some."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = math.inf
    for _ in range(20):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


if __name__ == "__main__":
    main()
