"""One step of the UNet at full size, ours and diffusers', from one random checkpoint on disk.

Memory holds one network at a time: each runs in a process of its own and leaves its output in a
file. Needs 5 GB of disk and 10 GB of memory.
"""

import json
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from kinora.config import SVD
from kinora.weights import load_networks
from kinora.weights.diffusers import COMPONENTS, diffusers_table
from kinora.weights.folder import weight_names
from kinora.weights.folder_export import folder_configs
from kinora.weights.names import shapes
from tests import parity

FRAMES, LATENTS = 14, (16, 24)
"""128×192 pixels."""


def compare(folder: Path) -> parity.Difference:
    """Write a checkpoint into an empty folder, run both networks on it, compare their outputs."""
    for step in (write_checkpoint, run_theirs, run_ours):
        apart(step, folder)
    ours, theirs = (load_file(folder / f"{name}.out")["out"] for name in ("ours", "theirs"))
    return parity.difference(ours, theirs)


def apart(step: Callable[[Path], None], folder: Path) -> None:
    """Run in a process that gives its memory back."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(step, folder).result()


def write_checkpoint(folder: Path) -> None:
    """A whole model in diffusers' layout: 2.25 billion random numbers in fp16, 1.5 the UNet's."""
    for name, values in folder_configs(SVD, torch.float16).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(values))
    table, known = diffusers_table(SVD), shapes(SVD)
    generator = torch.Generator().manual_seed(0)
    for component in COMPONENTS:
        tensors = {
            key.partition("/")[2]: parity.draw(
                rule.ours[0], table.theirs_shape(key, known), generator
            ).half()
            for key, rule in table.rules.items()
            if key.startswith(f"{component}/")
        }
        save_file(tensors, folder / weight_names(component, half=False)[0], {"format": "pt"})


def inputs() -> parity.UNetInputs:
    return parity.unet_inputs(SVD.unet, 1, FRAMES, LATENTS)


def run_theirs(folder: Path) -> None:
    from diffusers import UNetSpatioTemporalConditionModel

    unet: Any = UNetSpatioTemporalConditionModel.from_pretrained(
        folder, subfolder="unet", torch_dtype=torch.float32
    )
    parity.mend(unet.requires_grad_(False).eval())
    save_file({"out": parity.run_theirs(unet, inputs()).contiguous()}, folder / "theirs.out")


def run_ours(folder: Path) -> None:
    networks = load_networks(folder, device=torch.device("cpu"), dtype=torch.float32)
    save_file({"out": parity.run_ours(networks.unet, inputs()).contiguous()}, folder / "ours.out")
