"""The reference data of the original implementation, and its configurations as ours.

Read from ../shared/golden, or from the folder that KINORA_GOLDEN names. Everything comes from the
files: another set of the same form can be put in their place.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors import safe_open
from torch import Tensor

from kinora.config import ImageEncoderConfig, ModelConfig, UNetConfig, VAEConfig
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet
from kinora.weights import Networks, from_sgm

FOLDER = Path(os.environ.get("KINORA_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))


class Golden(NamedTuple):
    """One file: its values in fp32, its weights by the original's names, its metadata."""

    tensors: dict[str, Tensor]
    weights: dict[str, Tensor]
    metadata: dict[str, Any]

    def __getitem__(self, name: Any) -> Any:  # noqa: ANN401  (a NamedTuple's own index, too)
        return self.tensors[name]


def read(name: str) -> Golden:
    """The file of that name; skips the test where it is absent."""
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no reference data at {path}: set KINORA_GOLDEN to its folder")
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = {key: _parsed(value) for key, value in file.metadata().items()}
    weights = {
        key.removeprefix("weights."): tensor.float()
        for key, tensor in tensors.items()
        if key.startswith("weights.")
    }
    values = {key: tensor for key, tensor in tensors.items() if not key.startswith("weights.")}
    return Golden(values, weights, metadata)


def _parsed(value: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def unet_config(values: dict[str, Any], id_dim: int) -> UNetConfig:
    channels = tuple(values["model_channels"] * by for by in values["channel_mult"])
    return UNetConfig(
        latent_channels=values["out_channels"],
        channels=channels,
        blocks=values["num_res_blocks"],
        attention=tuple(2**i in values["attention_resolutions"] for i in range(len(channels))),
        heads=tuple(width // values["num_head_channels"] for width in channels),
        context_dim=values["context_dim"],
        vector_ids=values["adm_in_channels"] // id_dim,
        vector_dim=id_dim,
    )


def vae_config(values: dict[str, Any]) -> VAEConfig:
    shape = values["ddconfig"]
    return VAEConfig(
        latent_channels=shape["z_channels"],
        channels=tuple(shape["ch"] * by for by in shape["ch_mult"]),
        blocks=shape["num_res_blocks"],
        scale=values["scale_factor"],
    )


def image_encoder_config(values: dict[str, Any]) -> ImageEncoderConfig:
    return ImageEncoderConfig(
        image_size=values["image_size"],
        patch_size=values["patch_size"],
        width=values["width"],
        layers=values["layers"],
        heads=values["heads"],
        mlp_width=round(values["width"] * values["mlp_ratio"]),
        output_dim=values["output_dim"],
    )


class Model(NamedTuple):
    """The three networks of the reference, loaded through the key table."""

    config: ModelConfig
    unet: VideoUNet
    vae: VideoAutoencoder
    image_encoder: ImageEncoder

    def networks(self) -> Networks:
        return Networks(*self, fingerprint="golden", notes=())


def model() -> Model:
    """Built from unet, vae and clip; schedule and guidance from pipeline."""
    unet, vae, clip, run = (read(name) for name in ("unet", "vae", "clip", "pipeline"))
    setting = run.metadata["config"]
    config = ModelConfig(
        name="golden",
        unet=unet_config(unet.metadata["config"], unet.metadata["time_id_embedding_dim"]),
        vae=vae_config(vae.metadata["config"]),
        image_encoder=image_encoder_config(clip.metadata["config"]),
        frames=setting["num_frames"],
        width=setting["width"],
        height=setting["height"],
        sigma_min=setting["sigma_min"],
        sigma_max=setting["sigma_max"],
        rho=setting["rho"],
    )
    state = from_sgm({**unet.weights, **vae.weights, **clip.weights}, config)
    networks = (
        VideoUNet(config.unet),
        VideoAutoencoder(config.vae),
        ImageEncoder(config.image_encoder),
    )
    for prefix, network in zip(("unet.", "vae.", "image_encoder."), networks, strict=True):
        part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        network.load_state_dict(part, strict=True)
        network.eval().requires_grad_(False)
    return Model(config, *networks)
