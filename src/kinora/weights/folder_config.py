"""The config files of a diffusers folder, from and to our configuration."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kinora.config import (
    SVD,
    SVD_XT,
    ImageEncoderConfig,
    ModelConfig,
    UNetConfig,
    VAEConfig,
    config_from_dict,
)
from kinora.errors import CheckpointError, RequestError
from kinora.weights.variants import PUBLISHED, named_variant, refuse_contradiction

__all__ = [
    "ATTENTION_DOWN",
    "ATTENTION_UP",
    "FRAME_VAE",
    "IMAGE_ENCODER",
    "INDEX",
    "PIPELINE",
    "PLAIN_DOWN",
    "PLAIN_UP",
    "SCHEDULER",
    "TEMPORAL_VAE",
    "UNET",
    "VAE",
    "Configs",
    "read_config",
]

Configs = Mapping[str, Mapping[str, Any]]
"""File name in the folder → what it says."""

INDEX = "model_index.json"
UNET = "unet/config.json"
VAE = "vae/config.json"
IMAGE_ENCODER = "image_encoder/config.json"
SCHEDULER = "scheduler/scheduler_config.json"

PIPELINE = "StableVideoDiffusionPipeline"
TEMPORAL_VAE = "AutoencoderKLTemporalDecoder"
FRAME_VAE = "AutoencoderKL"

ATTENTION_DOWN, PLAIN_DOWN = "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"
ATTENTION_UP, PLAIN_UP = "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"


def read_config(path: Path, configs: Configs, variant: str | None) -> tuple[ModelConfig, list[str]]:
    """The model that a folder's config files describe, and what to say about it.

    Raises CheckpointError for another pipeline, for classes and settings that Kinora doesn't have,
    and when it is not the `variant` that was asked for.
    """
    try:
        config, notes = _model(path, configs)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = str(error) if isinstance(error, RequestError) else f"{error!r} is missing or odd"
        raise CheckpointError(f"{path}: its config files can't be understood: {reason}") from error
    if variant is None:
        return config, notes
    wanted = PUBLISHED[variant]
    if not _same_networks(config, wanted) or config.frames != wanted.frames:
        refuse_contradiction(path, config, variant)
    return replace(config, name=wanted.name, guidance=wanted.guidance, steps=wanted.steps), notes


def _model(path: Path, configs: Configs) -> tuple[ModelConfig, list[str]]:
    index, unet, vae, scheduler = (configs[name] for name in (INDEX, UNET, VAE, SCHEDULER))
    _expect(path / INDEX, index, {"_class_name": (PIPELINE,)})
    _expect(path / SCHEDULER, scheduler, {"prediction_type": ("v_prediction",)})
    networks = ModelConfig(
        name=path.name,
        frames=unet["num_frames"],
        unet=_read_unet(path, unet),
        vae=_read_vae(path, vae),
        image_encoder=_read_image_encoder(path, configs[IMAGE_ENCODER]),
    )
    config = _defaults(path, networks, index, unet)
    config = replace(
        config,
        unet=networks.unet,
        vae=networks.vae,
        image_encoder=networks.image_encoder,
        frames=networks.frames,
        sigma_min=scheduler.get("sigma_min") or config.sigma_min,
        sigma_max=scheduler.get("sigma_max") or config.sigma_max,
    )
    kind = scheduler.get("_class_name")
    if kind == "EulerDiscreteScheduler" and scheduler.get("use_karras_sigmas", True):
        return config, []
    return config, [f"{path} asks for the scheduler {kind}; Kinora's own samplers are used"]


def _defaults(
    path: Path, networks: ModelConfig, index: Mapping[str, Any], unet: Mapping[str, Any]
) -> ModelConfig:
    """What the networks' own settings don't tell: steps, guidance, size, name, licence."""
    if "_kinora" in index:
        return config_from_dict(index["_kinora"])
    if _same_networks(networks, SVD) and networks.frames in (SVD.frames, SVD_XT.frames):
        named = named_variant(path.name)
        if named is not None and named.frames == networks.frames:
            return named
        return SVD if networks.frames == SVD.frames else SVD_XT
    side = int(unet.get("sample_size") or 64) * networks.vae.factor
    return replace(networks, width=side, height=side)


def _same_networks(config: ModelConfig, other: ModelConfig) -> bool:
    vae = replace(config.vae, temporal_decoder=True, scale=other.vae.scale)
    return (config.unet, vae, config.image_encoder) == (other.unet, other.vae, other.image_encoder)


def _read_unet(path: Path, values: Mapping[str, Any]) -> UNetConfig:
    levels = len(values["block_out_channels"])
    attention = tuple(kind == ATTENTION_DOWN for kind in values["down_block_types"])
    _expect(
        path / UNET,
        values,
        {
            "_class_name": ("UNetSpatioTemporalConditionModel",),
            "transformer_layers_per_block": (1, [1] * levels),
            "in_channels": (2 * values["out_channels"],),
            "down_block_types": ([ATTENTION_DOWN if on else PLAIN_DOWN for on in attention],),
            "up_block_types": ([ATTENTION_UP if on else PLAIN_UP for on in attention[::-1]],),
        },
    )
    heads, dim = values["num_attention_heads"], values["addition_time_embed_dim"]
    return UNetConfig(
        latent_channels=values["out_channels"],
        channels=tuple(values["block_out_channels"]),
        blocks=_same_everywhere(path / UNET, "layers_per_block", values["layers_per_block"]),
        attention=attention,
        heads=(heads,) * levels if isinstance(heads, int) else tuple(heads),
        context_dim=_same_everywhere(
            path / UNET, "cross_attention_dim", values["cross_attention_dim"]
        ),
        vector_ids=values["projection_class_embeddings_input_dim"] // dim,
        vector_dim=dim,
        **_noted(values),
    )


def _read_vae(path: Path, values: Mapping[str, Any]) -> VAEConfig:
    levels = len(values["block_out_channels"])
    expected: dict[str, tuple[Any, ...]] = {
        "_class_name": (TEMPORAL_VAE, FRAME_VAE),
        "in_channels": (3,),
        "out_channels": (3,),
        "down_block_types": (["DownEncoderBlock2D"] * levels,),
    }
    temporal = values["_class_name"] == TEMPORAL_VAE
    if temporal:
        expected["layers_per_block"] = (2,)
    _expect(path / VAE, values, expected)
    noted = _noted(values)
    if not temporal:
        noted = {"norm_groups": values.get("norm_num_groups", 32)}
    return VAEConfig(
        latent_channels=values["latent_channels"],
        channels=tuple(values["block_out_channels"]),
        blocks=values["layers_per_block"],
        scale=values["scaling_factor"],
        temporal_decoder=temporal,
        **noted,
    )


def _read_image_encoder(path: Path, values: Mapping[str, Any]) -> ImageEncoderConfig:
    expected = {
        "model_type": ("clip_vision_model",),
        "hidden_act": ("gelu",),
        "num_channels": (3,),
        "layer_norm_eps": (1e-5,),
    }
    _expect(path / IMAGE_ENCODER, values, expected)
    return ImageEncoderConfig(
        image_size=values["image_size"],
        patch_size=values["patch_size"],
        width=values["hidden_size"],
        layers=values["num_hidden_layers"],
        heads=values["num_attention_heads"],
        mlp_width=values["intermediate_size"],
        output_dim=values["projection_dim"],
    )


def _noted(values: Mapping[str, Any]) -> dict[str, int]:
    """What diffusers has no setting for and an export may have noted."""
    noted = values.get("_kinora", {})
    return {"norm_groups": noted["norm_groups"]} if "norm_groups" in noted else {}


def _expect(file: Path, values: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse settings that Kinora's networks don't have; one that is left out is the first."""
    for key, choices in allowed.items():
        value = values.get(key, choices[0])
        if value not in choices:
            raise CheckpointError(
                f"{file}: {key} is {value!r}; Kinora knows {' or '.join(map(repr, choices))} only"
            )


def _same_everywhere(file: Path, key: str, value: int | list[int]) -> int:
    values = {value} if isinstance(value, int) else set(value)
    if len(values) != 1:
        raise CheckpointError(f"{file}: {key} is {value!r}; Kinora takes one number for all levels")
    return values.pop()
