"""The config files that a diffusers folder of a model has."""

from typing import Any

import torch

from kinora.config import ModelConfig, config_to_dict
from kinora.weights.folder_config import (
    ATTENTION_DOWN,
    ATTENTION_UP,
    FRAME_VAE,
    IMAGE_ENCODER,
    INDEX,
    PIPELINE,
    PLAIN_DOWN,
    PLAIN_UP,
    SCHEDULER,
    TEMPORAL_VAE,
    UNET,
    VAE,
)
from kinora.weights.variants import PUBLISHED

__all__ = ["folder_configs"]

FEATURE_EXTRACTOR = "feature_extractor/preprocessor_config.json"

VERSION = {"_diffusers_version": "0.24.0.dev0"}
"""Of the published folders, whose files these are."""


def folder_configs(config: ModelConfig, dtype: torch.dtype) -> dict[str, dict[str, Any]]:
    """File name → contents, as published.

    What diffusers has no setting for stands under `_kinora`: the norm groups of narrow networks
    with the network, the model's own defaults in the index.
    """
    return {
        INDEX: _index(config),
        UNET: _unet(config),
        VAE: _vae(config),
        IMAGE_ENCODER: _image_encoder(config, dtype),
        SCHEDULER: _scheduler(config),
        FEATURE_EXTRACTOR: _feature_extractor(config),
    }


def _index(config: ModelConfig) -> dict[str, Any]:
    published = PUBLISHED.get(config.name)
    note = {} if config == published else {"_kinora": config_to_dict(config)}
    return {
        "_class_name": PIPELINE,
        **VERSION,
        **note,
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
        "vae": ["diffusers", TEMPORAL_VAE if config.vae.temporal_decoder else FRAME_VAE],
    }


def _unet(config: ModelConfig) -> dict[str, Any]:
    unet = config.unet
    attention = unet.attention
    return {
        "_class_name": "UNetSpatioTemporalConditionModel",
        **VERSION,
        **_norm_groups(unet.norm_groups),
        "addition_time_embed_dim": unet.vector_dim,
        "block_out_channels": list(unet.channels),
        "cross_attention_dim": unet.context_dim,
        "down_block_types": [ATTENTION_DOWN if on else PLAIN_DOWN for on in attention],
        "in_channels": 2 * unet.latent_channels,
        "layers_per_block": unet.blocks,
        "num_attention_heads": list(unet.heads),
        "num_frames": config.frames,
        "out_channels": unet.latent_channels,
        "projection_class_embeddings_input_dim": unet.vector_ids * unet.vector_dim,
        "sample_size": _side(config) // config.vae.factor,
        "transformer_layers_per_block": 1,
        "up_block_types": [ATTENTION_UP if on else PLAIN_UP for on in attention[::-1]],
    }


def _vae(config: ModelConfig) -> dict[str, Any]:
    vae = config.vae
    levels = len(vae.channels)
    values: dict[str, Any] = {
        "_class_name": TEMPORAL_VAE if vae.temporal_decoder else FRAME_VAE,
        **VERSION,
        "block_out_channels": list(vae.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": vae.latent_channels,
        "layers_per_block": vae.blocks,
        "out_channels": 3,
        "sample_size": _side(config),
        "scaling_factor": vae.scale,
    }
    if vae.temporal_decoder:
        return {**values, **_norm_groups(vae.norm_groups)}
    return {
        **values,
        "act_fn": "silu",
        "norm_num_groups": vae.norm_groups,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def _image_encoder(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    encoder = config.image_encoder
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_size": encoder.width,
        "image_size": encoder.image_size,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": encoder.mlp_width,
        "layer_norm_eps": 1e-05,
        "model_type": "clip_vision_model",
        "num_attention_heads": encoder.heads,
        "num_channels": 3,
        "num_hidden_layers": encoder.layers,
        "patch_size": encoder.patch_size,
        "projection_dim": encoder.output_dim,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "transformers_version": "4.34.0.dev0",
    }


def _scheduler(config: ModelConfig) -> dict[str, Any]:
    return {
        "_class_name": "EulerDiscreteScheduler",
        **VERSION,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "interpolation_type": "linear",
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "set_alpha_to_one": False,
        "sigma_max": config.sigma_max,
        "sigma_min": config.sigma_min,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "timestep_type": "continuous",
        "trained_betas": None,
        "use_karras_sigmas": True,
    }


def _feature_extractor(config: ModelConfig) -> dict[str, Any]:
    side = config.image_encoder.image_size
    return {
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side},
    }


def _norm_groups(groups: int) -> dict[str, Any]:
    return {} if groups == 32 else {"_kinora": {"norm_groups": groups}}


def _side(config: ModelConfig) -> int:
    """The side of a square of about as many pixels as the trained size (768 for 1024 × 576)."""
    multiple = config.size_multiple
    return round((config.width * config.height) ** 0.5 / multiple) * multiple
