"""From a name to a pipeline that is ready to run."""

import warnings
from pathlib import Path

import torch

from kinora.amounts import parse_bytes
from kinora.device import pick_device, pick_dtype
from kinora.errors import KinoraWarning
from kinora.pipeline import Pipeline
from kinora.runtime import PreparedUNet, check_tf32, quantiser
from kinora.weights import DEFAULT_HUB, Hub, load_networks

__all__ = ["load"]


def load(
    source: str | Path = "nano",
    *,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    vae_dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    compiled: bool = False,
    tf32: bool = False,
    variant: str | None = None,
    memory: str | int | None = None,
    wait: bool = True,
    hub: Hub = DEFAULT_HUB,
) -> Pipeline:
    """Load a model, ready to run.

    source: an alias ("nano", which is bundled; "svd", "svd-xt", "svd-xt-1.1"), a hub id, a folder
        in diffusers' layout, or a .safetensors file.
    device: "cuda", "cuda:1", "mps" or "cpu", or torch's own object; the best one there is when left
        out.
    dtype: "float16", "bfloat16" or "float32", or torch's own types; float16 on CUDA, else float32,
        when left out.
    vae_dtype: precision of decoding; `dtype` when left out (the original decodes in float32).
    quantize: "int8" or, on a GPU, "float8": what the UNet's linear layers multiply in. Less time
        and memory, and the clip changes; nothing is quantised when left out.
    compiled: whether torch compiles the UNet's blocks: the first clip of each size waits for that,
        later ones are quicker.
    tf32: whether an NVIDIA GPU may multiply fp32 in TF32, whose mantissa has 10 bits: less time,
        about float16's error, in all that runs in fp32 (the encoder of photos always does). This
        is a setting of the whole process in torch, which is restored after each call.
    variant: which published model a single file holds, for files that don't tell.
    memory: how much may be held at most ("6GiB", or bytes): on a GPU by torch, on a CPU by the
        process; what is free when left out. Where it is too little for all networks at once, each
        is loaded when it works.
    wait: until all weights are loaded; otherwise the first steps may begin meanwhile, and damage to
        the weights is told by the step that needs them.
    hub: revision, cache folder and token, where the hub is asked.
    Raises CheckpointError, DeviceError or RequestError; what the user should hear comes as a
    KinoraWarning.
    """
    where = pick_device(device)
    precision = pick_dtype(dtype, where)
    if tf32:
        check_tf32(where)
    limit = None if memory is None else parse_bytes("memory", memory)
    prepare = None
    if quantize is not None:
        prepare = quantiser(quantize, where, precision, compiled=compiled)
    networks = load_networks(
        source,
        device=where,
        dtype=precision,
        vae_dtype=None if vae_dtype is None else pick_dtype(vae_dtype, where),
        variant=variant,
        hub=hub,
        empty=True,
        prepare=prepare,
    )
    for note in networks.notes:
        warnings.warn(note, KinoraWarning, stacklevel=2)
    pipeline = Pipeline(
        networks,
        PreparedUNet(networks.unet),
        memory=limit,
        quantize=quantize,
        compiled=compiled,
        tf32=tf32,
    )
    pipeline.fill(wait=wait)
    return pipeline
