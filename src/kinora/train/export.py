"""The trained autoencoder as a file, from which the UNet's training goes on."""

import json
from pathlib import Path

import torch

from kinora.config import ModelConfig, config_from_dict, config_to_dict
from kinora.errors import CheckpointError
from kinora.models import VideoAutoencoder
from kinora.train.tensors import read_tensors, write_tensors

__all__ = ["read_vae", "write_vae"]


def write_vae(path: Path, config: ModelConfig, vae: VideoAutoencoder) -> None:
    """Write the averaged weights in fp32, with the configuration that holds their scale."""
    tensors = {f"vae.{name}": tensor for name, tensor in vae.state_dict().items()}
    write_tensors(path, tensors, {"config": json.dumps(config_to_dict(config))})


def read_vae(path: Path, device: torch.device) -> tuple[ModelConfig, VideoAutoencoder]:
    """Read what `write_vae` wrote. Raises CheckpointError when it is missing or damaged."""
    if not path.exists():
        raise CheckpointError(f"no trained autoencoder at {path}: run `kinora train vae` first")
    tensors, metadata = read_tensors(path, "vae.")
    config = config_from_dict(json.loads(metadata.get("config", "{}")))
    vae = VideoAutoencoder(config.vae)
    try:
        vae.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path} is not a whole autoencoder: {error}") from error
    vae.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return config, vae.eval().requires_grad_(False)
