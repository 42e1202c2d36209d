"""Peak memory and time of loading a model at full size.

Writes a checkpoint of random numbers to a temporary folder (up to 10 GB), loads it in a fresh
process, and prints how far that process's memory rose, against the bytes of the loaded weights.

    python -m benchmarks.loading --model svd-xt --format sgm --stored float16 --dtype float16
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmarks.resident import resident
from kinora.config import NANO, SVD, SVD_XT, TINY, ModelConfig
from kinora.weights import convert, load_networks
from kinora.weights.convert import sgm_metadata
from kinora.weights.keymap import KeyMap, own_rules
from kinora.weights.names import living_shapes, shapes
from kinora.weights.save import own_metadata
from kinora.weights.sgm import sgm_table
from kinora.weights.write import Planned, write_tensors

HALF = replace(
    SVD_XT,
    name="half",
    unet=replace(SVD_XT.unet, channels=(160, 320, 640, 640), heads=(5, 10, 10, 10)),
    image_encoder=replace(SVD_XT.image_encoder, layers=4),
)
"""A quarter of svd-xt, for machines that are short of time or disk."""

MODELS = {config.name: config for config in (SVD, SVD_XT, HALF, NANO, TINY)}
NOISE = torch.randn(1 << 20).mul_(0.02)


def main() -> None:
    arguments = parse()
    if arguments.child:
        measure(Path(arguments.child), arguments.dtype, checked=not arguments.unchecked)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="kinora-loading-") as folder:
        path = write(
            Path(folder), MODELS[arguments.model], arguments.format, dtype_of(arguments.stored)
        )
        for dtype in arguments.dtype.split(","):
            for flags in ([], ["--unchecked"]):
                report(path, arguments, dtype, flags)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), default="svd-xt")
    parser.add_argument("--format", choices=["kinora", "sgm", "diffusers"], default="sgm")
    parser.add_argument("--stored", default="float16", help="number format of the file")
    parser.add_argument("--dtype", default="float16", help="asked for; several with commas")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--unchecked", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def dtype_of(name: str) -> torch.dtype:
    return getattr(torch, name)


def write(folder: Path, config: ModelConfig, format: str, dtype: torch.dtype) -> Path:
    """A checkpoint of random numbers, with everything in it that the published files have."""
    path = folder / f"{config.name}.safetensors"
    table = sgm_table(config) if format == "sgm" else KeyMap(own_rules(living_shapes(config)))
    known = shapes(config)
    sizes = {key: table.theirs_shape(key, known) for key in table.rules}
    plan = [Planned(key, dtype, size, partial(noise, size, dtype)) for key, size in sizes.items()]
    write_tensors(path, plan, sgm_metadata(config) if format == "sgm" else own_metadata(config))
    if format != "diffusers":
        return path
    convert(path, folder / config.name, to="diffusers")
    path.unlink()
    return folder / config.name


def noise(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    count = torch.Size(shape).numel()
    return NOISE.repeat(-(-count // len(NOISE)))[:count].reshape(shape).to(dtype)


def report(path: Path, arguments: argparse.Namespace, dtype: str, flags: list[str]) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.loading",
        "--child",
        str(path),
        "--dtype",
        dtype,
        *flags,
    ]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    seen = json.loads(result.stdout)
    gib = {key: seen[key] / 2**30 for key in ("weights", "before", "peak")}
    print(
        f"| {arguments.model}, {arguments.format} | {arguments.stored} | {dtype} "
        f"| {'no' if flags else 'yes'} | {gib['weights']:.2f} | {gib['before']:.2f} "
        f"| {gib['peak']:.2f} | {gib['peak'] / gib['weights']:.3f} "
        f"| {(gib['peak'] - gib['before']) / gib['weights']:.3f} | {seen['seconds']:.1f} |",
        flush=True,
    )


def measure(path: Path, dtype: str, *, checked: bool) -> None:
    """In the fresh process: load, then touch every value, as inference would."""
    torch.set_num_threads(2)
    before = resident("VmHWM")
    start = time.perf_counter()
    patch = mock.patch("kinora.weights.load.bad_values", return_value=None)
    checkpoint = mock.patch("kinora.weights.checkpoint.bad_values", return_value=None)
    if checked:
        networks = load_networks(path, device=torch.device("cpu"), dtype=dtype_of(dtype))
    else:
        with patch, checkpoint:
            networks = load_networks(path, device=torch.device("cpu"), dtype=dtype_of(dtype))
    seconds = time.perf_counter() - start
    modules = (networks.unet, networks.vae, networks.image_encoder)
    parameters = [p for module in modules for p in module.parameters()]
    for parameter in parameters:
        # In the order of memory: kernels are channels last, and would else be copied.
        parameter.as_strided((parameter.numel(),), (1,))[::512].sum()
    weights = sum(p.numel() * p.element_size() for p in parameters)
    values = {"weights": weights, "before": before, "peak": resident("VmHWM"), "seconds": seconds}
    print(json.dumps(values))


if __name__ == "__main__":
    main()
