"""What a run hands out: averaged weights, with the configuration beside them."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from kinora.config import ModelConfig, config_from_dict, config_to_dict
from kinora.errors import CheckpointError
from kinora.models import VideoAutoencoder
from kinora.train.checkpoint import write_tensors

__all__ = ["read_vae", "write_model", "write_vae"]


def write_vae(path: Path, config: ModelConfig, vae: VideoAutoencoder) -> None:
    """Write the trained autoencoder in fp32, with the configuration that holds its scale."""
    tensors = {f"vae.{name}": tensor for name, tensor in vae.state_dict().items()}
    write_tensors(path, tensors, {"config": json.dumps(config_to_dict(config))})


def read_vae(path: Path, device: torch.device) -> tuple[ModelConfig, VideoAutoencoder]:
    """Read what `write_vae` wrote. Raises CheckpointError when it is missing or damaged."""
    try:
        with safe_open(str(path), "pt") as file:
            config = config_from_dict(json.loads(file.metadata()["config"]))
            names = list(file.keys())
            tensors = {name.removeprefix("vae."): file.get_tensor(name) for name in names}
        vae = VideoAutoencoder(config.vae)
        vae.load_state_dict(tensors)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no trained autoencoder at {path}: run `kinora train vae` first"
        ) from error
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a trained autoencoder: {error}") from error
    vae.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return config, vae.eval().requires_grad_(False)


def write_model(
    path: Path, config: ModelConfig, unet: nn.Module, vae: nn.Module, image_encoder: nn.Module
) -> None:
    """Write all three networks in fp16, in our own format, for `kinora.load`."""
    parts = {"unet": unet, "vae": vae, "image_encoder": image_encoder}
    tensors = {
        f"{part}.{name}": tensor.detach().to(torch.float16)
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    metadata = {"format": "kinora", "config": json.dumps(config_to_dict(config))}
    write_tensors(path, tensors, metadata)
