"""How quick a CPU's kernels are at the shapes of the UNet, in the ways they can be called.

    python -m benchmarks.kernels --json kernels.json

Of both halves of guidance and 14 frames at 128×192, in GFLOP/s: medians of calls in turns. What
`runtime/packed.py` does rests on this. Run from the root of the repository.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from kinora.runtime.packed import Convolution, Linear
from kinora.runtime.quantised import Int8

FRAMES = 28
"""14, in both halves."""


class Case(NamedTuple):
    """A layer at a shape, and the ways to compute it."""

    name: str
    flops: float
    ways: Mapping[str, Callable[[], Tensor]]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, object]] = []
    for case in cases():
        speeds = measure(case, options.calls)
        print(case.name, *(f"{way} {speed:.0f}" for way, speed in speeds.items()), sep="; ")
        rows += [
            {"name": f"{case.name}, {way}", "ours": speed, "unit": "GFLOP/s"}
            for way, speed in speeds.items()
        ]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def measure(case: Case, calls: int) -> dict[str, float]:
    """GFLOP/s of each way."""
    seconds: dict[str, list[float]] = {way: [] for way in case.ways}
    for _ in range(calls + 1):
        for way, call in case.ways.items():
            start = time.perf_counter()
            call()
            seconds[way].append(time.perf_counter() - start)
    return {way: case.flops / statistics.median(found[1:]) / 1e9 for way, found in seconds.items()}


def cases() -> Iterator[Case]:
    for channels, height, width in (
        (320, 16, 24),
        (640, 8, 12),
        (1280, 4, 6),
        (1280, 4, 4),
        (1280, 2, 3),
    ):
        yield in_space(channels, FRAMES, height, width)
    yield in_space(1280, FRAMES // 2, 4, 6)
    yield along_time(320, 16 * 24)
    yield along_time(1280, 2 * 3)
    yield linear(FRAMES * 24, 1280, 10240)
    yield linear(FRAMES * 384, 1280, 320)


def in_space(channels: int, frames: int, height: int, width: int) -> Case:
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    rows_of_channels = conv.weight.detach().clone()
    conv.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(frames, channels, height, width)
    x_last = x.contiguous(memory_format=torch.channels_last)
    packed = Convolution(conv, conv.weight.detach(), x_last)
    ways: dict[str, Callable[[], Tensor]] = {
        "channels last": lambda: F.conv2d(x_last, conv.weight, conv.bias, padding=1),
        "rows of channels": lambda: F.conv2d(x, rows_of_channels, conv.bias, padding=1),
        "packed": lambda: packed(x_last, conv.bias),
        "as a product": lambda: product(conv, x_last),
    }
    name = f"3x3 convolution, {channels} channels, {frames} frames of {height}x{width}"
    return Case(name, 2 * 9 * channels**2 * frames * height * width, ways)


def product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution as one product of matrices."""
    height, width = x.shape[2:]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    squares = rearrange(padded.unfold(1, 3, 1).unfold(2, 3, 1), "n y x c i j -> (n y x) (i j c)")
    made = F.linear(squares, rearrange(conv.weight, "d c i j -> d (i j c)"), conv.bias)
    return rearrange(made, "(n y x) d -> n d y x", y=height, x=width)


def along_time(channels: int, pixels: int) -> Case:
    conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
    conv.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = torch.randn(2, channels, FRAMES // 2, pixels)
    x = x.contiguous(memory_format=torch.channels_last)
    cube, volume = conv.weight.detach()[..., None].contiguous(), x[..., None].contiguous()
    packed = Convolution(conv, conv.weight.detach(), x)
    ways: dict[str, Callable[[], Tensor]] = {
        "as a 2D convolution": lambda: conv(x),
        "packed": lambda: packed(x, conv.bias),
        "as a 3D convolution": lambda: F.conv3d(volume, cube, conv.bias, padding=(1, 0, 0)),
    }
    name = f"convolution along time, {channels} channels, {pixels} pixels"
    return Case(name, 2 * 3 * channels**2 * FRAMES * pixels, ways)


def linear(rows: int, width: int, to: int) -> Case:
    layer = nn.Linear(width, to)
    x = torch.randn(rows, width)
    packed, int8 = Linear(layer.weight.detach()), Int8(layer.weight.detach())
    ways: dict[str, Callable[[], Tensor]] = {
        "as torch calls it": lambda: layer(x),
        "packed": lambda: packed(x, layer.bias),
        "int8": lambda: int8(x, layer.bias),
    }
    return Case(f"linear layer, {rows} x {width} to {to}", 2 * rows * width * to, ways)


if __name__ == "__main__":
    main()
