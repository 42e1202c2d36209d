"""A short name for what a model is: the same for the same weights, whatever file they lie in."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from kinora.weights.changed import Changed
from kinora.weights.checkpoint import Checkpoint
from kinora.weights.names import living_shapes
from kinora.weights.read import DTYPE_NAMES

__all__ = ["fingerprint", "full_digest"]

RUN = 128
"""Values taken from the start, the middle and the end of each tensor."""

CHUNK = 1 << 24


def fingerprint(checkpoint: Checkpoint | Changed) -> str:
    """SHA-256 over the header and a fixed sample of every tensor (hexadecimal).

    The header is that of our own format, whatever the file's: the networks' configurations, the
    noise range, and name, number format and shape of every tensor that the networks need, in
    alphabetical order. The sample is three runs of 128 values. So it costs next to no reading, and
    a model keeps its fingerprint when it is converted without changing its number format.
    """
    digest = hashlib.sha256(_header(checkpoint))
    for name in sorted(living_shapes(checkpoint.config)):
        flat = checkpoint.tensor(name).reshape(-1)
        middle = max(0, len(flat) // 2 - RUN // 2)
        for run in (flat[:RUN], flat[middle : middle + RUN], flat[-RUN:]):
            digest.update(_bytes(run))
    return digest.hexdigest()


def full_digest(checkpoint: Checkpoint) -> str:
    """SHA-256 over the same header and all values; raises CheckpointError at NaN or infinity."""
    digest = hashlib.sha256(_header(checkpoint))
    for name in sorted(living_shapes(checkpoint.config)):
        flat = checkpoint.sound_tensor(name).reshape(-1)
        for start in range(0, len(flat), CHUNK):
            digest.update(_bytes(flat[start : start + CHUNK]))
        checkpoint.forget(name)
    return digest.hexdigest()


def _header(checkpoint: Checkpoint | Changed) -> bytes:
    config = asdict(checkpoint.config)
    kept = ("unet", "vae", "image_encoder", "sigma_min", "sigma_max", "rho")
    header: dict[str, Any] = {key: config[key] for key in kept}
    header["tensors"] = {
        name: [DTYPE_NAMES[checkpoint.dtype(name)], list(shape)]
        for name, shape in living_shapes(checkpoint.config).items()
    }
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()
