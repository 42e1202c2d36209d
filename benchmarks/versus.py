"""Kinora beside diffusers, on the same random weights and noise, run by run.

    python -m benchmarks.versus step --json step.json
    python -m benchmarks.versus step-chunked
    python -m benchmarks.versus int8
    python -m benchmarks.versus decode
    python -m benchmarks.versus decode --shape 320x576x25 --pairs 0
    python -m benchmarks.versus decode-chunked
    python -m benchmarks.versus clip
    python -m benchmarks.versus load

Run from the root of the repository, with the test and benchmark extras installed. A step of the
UNet, the same with int8 linear layers, decoding and loading are those of a checkpoint of random
numbers at full size, written to a temporary folder (5 GB); a clip is the bundled model's, from
photo to frames. Chunked is diffusers with its forward chunking, and decoding two frames at a time,
beside what we do anyway. The shapes of loading are the bits of the numbers that it ends in.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tests import parity, parity_full_size
from torch import Tensor, nn

import kinora
from benchmarks.duel import Row, duel, report
from kinora.compat.diffusers import StableVideoDiffusionPipeline
from kinora.config import NANO, SVD
from kinora.device import pick_device
from kinora.runtime import PreparedUNet, decode, quantiser
from kinora.runtime.packed import pack_when_used
from kinora.types import Condition
from kinora.weights import convert, load_networks, save_networks

CPU = pick_device("cpu")
STEPS = ("128x192x14", "256x256x8")
CLIP = f"{NANO.height}x{NANO.width}x{NANO.frames}"
"""Height, width and frames of the steps that are timed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=sorted(CONTESTS))
    parser.add_argument("--shape", nargs="+", help="HEIGHTxWIDTHxFRAMES; several are possible")
    parser.add_argument("--pairs", type=int, default=5, help="of runs; 0: one run, not warmed up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where such a folder is, from an earlier run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        contest = CONTESTS[options.what]
        if options.folder is None:
            parity_full_size.apart(contest.write, folder)
        rows: list[Row] = []
        for text in options.shape or contest.shapes:
            shape = tuple(map(int, text.split("x")))
            rows += duel(
                f"{options.what} {text}",
                partial(contest.ours, folder, shape),
                partial(contest.theirs, folder, shape),
                pairs=options.pairs,
                threads=options.threads,
                anew=contest.anew,
            )
    report(rows, options.json)


Shape = tuple[int, ...]
"""Height, width, frames."""


def our_step(
    folder: Path, shape: Shape, prepare: Callable[[str, Tensor], Tensor] | None = None
) -> Callable[[], Tensor]:
    """As `kinora.load` prepares it."""
    networks = load_networks(folder, device=CPU, dtype=torch.float32, prepare=prepare)
    unet = PreparedUNet(networks.unet)
    pack_when_used(unet, lambda parameter: None)
    x, c_noise, both = step_inputs(shape)
    return lambda: unet(x, c_noise, both)


def our_int8_step(folder: Path, shape: Shape) -> Callable[[], Tensor]:
    return our_step(folder, shape, quantiser("int8", CPU, torch.float32))


def their_step(folder: Path, shape: Shape, *, chunked: bool = False) -> Callable[[], Tensor]:
    from diffusers import UNetSpatioTemporalConditionModel

    unet: Any = UNetSpatioTemporalConditionModel.from_pretrained(
        folder, subfolder="unet", torch_dtype=torch.float32
    )
    parity.mend(unet.requires_grad_(False).eval())
    if chunked:
        unet.enable_forward_chunking()
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


def their_decoding(folder: Path, shape: Shape, *, chunk: int | None = None) -> Callable[[], Tensor]:
    from diffusers import AutoencoderKLTemporalDecoder

    vae: Any = AutoencoderKLTemporalDecoder.from_pretrained(
        folder, subfolder="vae", torch_dtype=torch.float32
    )
    vae.requires_grad_(False).eval()
    latents = decode_inputs(shape)
    parts = torch.split(latents[0], chunk or shape[2])
    return lambda: torch.cat([vae.decode(part, num_frames=len(part)).sample for part in parts])


def decode_inputs(shape: Shape) -> Tensor:
    height, width, frames = shape
    generator = torch.Generator().manual_seed(0)
    factor = SVD.vae.factor
    return torch.randn(1, frames, 4, height // factor, width // factor, generator=generator)


def write_nano(folder: Path) -> None:
    """The bundled model in diffusers' layout, which can't tell of norm groups: 32 are claimed."""
    networks = kinora.load("nano").networks
    config = replace(
        networks.config,
        unet=replace(networks.config.unet, norm_groups=32),
        vae=replace(networks.config.vae, norm_groups=32),
    )
    parts = {name: getattr(networks, name) for name in parity.NETWORKS}
    own = save_networks(folder / "nano.safetensors", config, parts)
    convert(own, folder / "nano", to="diffusers")


def our_clip(_: Path, shape: Shape) -> Callable[[], Tensor]:
    return clip_of(StableVideoDiffusionPipeline.from_pretrained("nano"), shape)


def their_clip(folder: Path, shape: Shape) -> Callable[[], Tensor]:
    pipeline = parity.diffusers_pipeline(folder / "nano")
    for network in (pipeline.unet, pipeline.vae):
        for module in network.modules():
            if isinstance(module, nn.GroupNorm):
                module.num_groups = NANO.unet.norm_groups
    return clip_of(pipeline, shape)


def clip_of(pipeline: Any, shape: Shape) -> Callable[[], Tensor]:  # noqa: ANN401
    """A call that both pipelines understand, on the same photo from the same noise."""
    height, width, frames = shape
    photo = Image.open("examples/rocket.jpg").resize((width, height))

    def call() -> Tensor:
        made = pipeline(
            photo,
            height,
            width,
            num_frames=frames,
            num_inference_steps=NANO.steps,
            min_guidance_scale=NANO.guidance[0],
            max_guidance_scale=NANO.guidance[1],
            decode_chunk_size=frames,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        )
        return torch.from_numpy(np.asarray(made.frames))

    return call


def our_loading(folder: Path, shape: Shape) -> Callable[[], Tensor]:
    def call() -> Tensor:
        networks = kinora.load(folder, device="cpu", dtype=f"float{shape[0]}").networks
        return touched(networks.unet, networks.vae, networks.image_encoder)

    return call


def their_loading(folder: Path, shape: Shape) -> Callable[[], Tensor]:
    from diffusers import StableVideoDiffusionPipeline as Theirs

    dtype = {16: torch.float16, 32: torch.float32}[shape[0]]

    def call() -> Tensor:
        pipeline: Any = Theirs.from_pretrained(folder, torch_dtype=dtype)
        return touched(pipeline.unet, pipeline.vae, pipeline.image_encoder)

    return call


def touched(unet: Any, *others: nn.Module) -> Tensor:  # noqa: ANN401
    """Weights of the UNet, once something of every page of memory of all was read: what is merely
    mapped is not ready to run."""
    for network in (unet, *others):
        for parameter in network.parameters():
            flat = parameter.detach().as_strided((parameter.numel(),), (1,))
            flat[:: 4096 // flat.element_size()].sum()
    return unet.conv_in.weight.detach().float().clone()


class Contest(NamedTuple):
    """Two ways to do the same, at some shapes, with files that are written before."""

    shapes: tuple[str, ...]
    ours: Callable[[Path, Shape], Callable[[], Tensor]]
    theirs: Callable[[Path, Shape], Callable[[], Tensor]]
    write: Callable[[Path], None] = parity_full_size.write_checkpoint
    anew: bool = False
    """Whether each run is to have a process of its own."""


CONTESTS = {
    "step": Contest(STEPS, our_step, their_step),
    "step-chunked": Contest(STEPS[:1], our_step, partial(their_step, chunked=True)),
    "int8": Contest(STEPS[:1], our_int8_step, their_step),
    "decode": Contest(("320x576x7",), our_decoding, their_decoding),
    "decode-chunked": Contest(("128x192x8",), our_decoding, partial(their_decoding, chunk=2)),
    "clip": Contest((CLIP,), our_clip, their_clip, write_nano),
    "load": Contest(("16", "32"), our_loading, their_loading, anew=True),
}


if __name__ == "__main__":
    main()
