"""Kinora beside diffusers, on the same random weights and noise, run by run.

    python -m benchmarks.versus step --json step.json
    python -m benchmarks.versus decode --size 320x576 --frames 7

Run from the root of the repository, with the test and benchmark extras installed. Writes a
checkpoint of random numbers at full size to a temporary folder (5 GB) unless --folder names one.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tests import parity, parity_full_size
from torch import Tensor

from benchmarks.duel import Row, duel, report
from kinora.config import SVD
from kinora.device import pick_device
from kinora.runtime import PreparedUNet, decode
from kinora.types import Condition
from kinora.weights import load_networks

CPU = pick_device("cpu")
STEPS = ("128x192x14", "256x256x8")
"""Height, width and frames of the steps that are timed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=sorted(CONTESTS))
    parser.add_argument("--shape", nargs="+", help="HEIGHTxWIDTHxFRAMES; several are possible")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="a diffusers folder of SVD's shape")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None:
            parity_full_size.apart(parity_full_size.write_checkpoint, folder)
        shapes, ours, theirs = CONTESTS[options.what]
        rows: list[Row] = []
        for text in options.shape or shapes:
            shape = tuple(map(int, text.split("x")))
            rows += duel(
                f"{options.what} {text}",
                partial(ours, folder, shape),
                partial(theirs, folder, shape),
                pairs=options.pairs,
                threads=options.threads,
            )
    report(rows, options.json)


Shape = tuple[int, ...]
"""Height, width, frames."""


def our_step(folder: Path, shape: Shape) -> Callable[[], Tensor]:
    unet = PreparedUNet(load_networks(folder, device=CPU, dtype=torch.float32).unet)
    x, c_noise, both = step_inputs(shape)
    return lambda: unet(x, c_noise, both)


def their_step(folder: Path, shape: Shape) -> Callable[[], Tensor]:
    from diffusers import UNetSpatioTemporalConditionModel

    unet: Any = UNetSpatioTemporalConditionModel.from_pretrained(
        folder, subfolder="unet", torch_dtype=torch.float32
    )
    parity.mend(unet.requires_grad_(False).eval())
    x, c_noise, both = step_inputs(shape)
    inputs = parity.UNetInputs(torch.cat([x, x]), torch.cat([c_noise, c_noise]), both)
    return lambda: parity.run_theirs(unet, inputs)


def step_inputs(shape: Shape) -> tuple[Tensor, Tensor, Condition]:
    """Latents and noise level of one clip, and both conditions of guidance."""
    height, width, frames = shape
    factor = SVD.vae.factor
    inputs = parity.unet_inputs(SVD.unet, 1, frames, (height // factor, width // factor))
    halves = zip(inputs.condition.unconditional(), inputs.condition, strict=True)
    return inputs.x, inputs.c_noise, Condition(*(torch.cat(pair) for pair in halves))


def our_decoding(folder: Path, shape: Shape) -> Callable[[], Tensor]:
    vae = load_networks(folder, device=CPU, dtype=torch.float32).vae
    latents = decode_inputs(shape)
    return lambda: decode(vae, latents)[0]


def their_decoding(folder: Path, shape: Shape) -> Callable[[], Tensor]:
    from diffusers import AutoencoderKLTemporalDecoder

    vae: Any = AutoencoderKLTemporalDecoder.from_pretrained(
        folder, subfolder="vae", torch_dtype=torch.float32
    )
    vae.requires_grad_(False).eval()
    latents = decode_inputs(shape)
    return lambda: vae.decode(latents[0], num_frames=latents.shape[1]).sample


def decode_inputs(shape: Shape) -> Tensor:
    height, width, frames = shape
    generator = torch.Generator().manual_seed(0)
    factor = SVD.vae.factor
    return torch.randn(1, frames, 4, height // factor, width // factor, generator=generator)


CONTESTS = {
    "step": (STEPS, our_step, their_step),
    "decode": (("320x576x7",), our_decoding, their_decoding),
}


if __name__ == "__main__":
    main()
