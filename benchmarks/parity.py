"""Our networks and pipeline against diffusers' and transformers': the figures of docs/parity.md.

    python -m benchmarks.parity               # small and mid-sized, a minute
    python -m benchmarks.parity --full-size   # also 1.5 billion parameters: 5 GB of disk, minutes

Run from the root of the repository, with the test extras installed. Prints a table.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tests import parity, parity_full_size
from tests.parity import Difference

from kinora.compat.diffusers import StableVideoDiffusionPipeline
from kinora.config import ModelConfig

Row = tuple[str, str, Difference]
"""What was compared, on what, and how far apart it was."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full-size", action="store_true")
    full_size = parser.parse_args().full_size
    print("| compared | on | largest difference | rms difference | rms of the reference |")
    print("|---|---|---|---|---|")
    for what, how, found in rows(full_size):
        figures = " | ".join(f"{value:.1e}" for value in found)
        print(f"| {what} | {how} | {figures} |", flush=True)


def rows(full_size: bool) -> Iterator[Row]:
    yield from networks("small", parity.SMALL, clips=2, frames=4, latents=(8, 16))
    yield from networks("mid-sized", parity.MID, clips=2, frames=6, latents=(16, 24))
    yield from pipelines()
    if full_size:
        with tempfile.TemporaryDirectory() as folder:
            found = parity_full_size.compare(Path(folder))
        yield "UNet", "full size, 1 × 14 × 16×24 latents (128×192 pixels)", found


def networks(
    size: str, config: ModelConfig, *, clips: int, frames: int, latents: tuple[int, int]
) -> Iterator[Row]:
    tensors = parity.random_tensors(config)
    ours, theirs = parity.ours(config, tensors), parity.theirs(config, tensors)
    count = sum(p.numel() for p in theirs["unet"].parameters()) / 1e6
    where = f"{clips} × {frames} × {latents[0]}×{latents[1]} latents"

    inputs = parity.unet_inputs(config.unet, clips, frames, latents)
    found = parity.difference(
        parity.run_ours(ours["unet"], inputs), parity.run_theirs(theirs["unet"], inputs)
    )
    yield "UNet", f"{size} ({count:.1f} M parameters), {where}", found

    generator = torch.Generator().manual_seed(1)
    sides = [side * config.vae.factor for side in latents]
    images = torch.rand((clips, 3, *sides), generator=generator) * 2 - 1
    z = torch.randn((clips, frames, config.vae.latent_channels, *latents), generator=generator)
    pixels = torch.randn((2, 3, 224, 224), generator=generator)
    with torch.no_grad():
        posterior = theirs["vae"].encode(images).latent_dist.parameters
        found = parity.difference(ours["vae"].encode(images), posterior)
        yield "VAE, encoding", f"{size}, {clips} × {sides[0]}×{sides[1]} pixels", found
        decoded = theirs["vae"].decode(z.flatten(0, 1), num_frames=frames).sample
        found = parity.difference(ours["vae"].decode(z).flatten(0, 1), decoded)
        yield "VAE, decoding", f"{size}, {where}", found
        embedding = theirs["image_encoder"](pixels).image_embeds
        found = parity.difference(ours["image_encoder"].encode(pixels)[:, 0], embedding)
        yield "image encoder", f"{size}, 2 × 224×224 pixels", found


def pipelines() -> Iterator[Row]:
    """Photo to frames in [0, 1], from one generator; the photo is of another shape."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((140, 90), Image.Resampling.BICUBIC)
    with tempfile.TemporaryDirectory() as folder:
        path = parity.write_folder(Path(folder) / "model", parity.SMALL)
        ours = StableVideoDiffusionPipeline.from_pretrained(path)
        theirs = parity.diffusers_pipeline(path)
        for chunk in (None, 3):
            mine, reference = (
                pipe(
                    photo,
                    height=64,
                    width=96,
                    num_frames=8,
                    num_inference_steps=10,
                    decode_chunk_size=chunk,
                    generator=torch.Generator().manual_seed(0),
                    output_type="pt",
                ).frames
                for pipe in (ours, theirs)
            )
            how = "all frames at once" if chunk is None else f"{chunk} frames at a time"
            found = parity.difference(mine, reference)
            yield "pipeline", f"small, 8 × 64×96 pixels, 10 steps, decoded {how}", found


if __name__ == "__main__":
    main()
