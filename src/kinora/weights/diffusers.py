"""The names in a diffusers folder: three components, each with its own files.

In this table, a key is `component/key`, so that one table serves the whole folder.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise

from torch import Tensor

from kinora.arguments import expect
from kinora.config import ImageEncoderConfig, ModelConfig, UNetConfig, VAEConfig
from kinora.weights.blocks import FLAT_RES_BLOCK, time_transformer_block, transformer_block
from kinora.weights.keymap import SQUEEZE, KeyMap, Rule, as_tensors, layers, weights

__all__ = ["COMPONENTS", "diffusers_table", "from_diffusers", "to_diffusers"]

COMPONENTS = ("unet", "vae", "image_encoder")


@lru_cache(maxsize=8)
def diffusers_table(config: ModelConfig) -> KeyMap:
    """The table of a whole diffusers folder."""

    def rules() -> Iterator[Rule]:
        yield from _unet("unet/", "unet.", config.unet)
        yield from _vae("vae/", "vae.", config.vae)
        yield from _image_encoder("image_encoder/", "image_encoder.", config.image_encoder)

    return KeyMap(rules())


def from_diffusers(
    component: str, tensors: Mapping[str, Tensor], config: ModelConfig
) -> dict[str, Tensor]:
    """Our names and layouts of the tensors of one component (`unet`, `vae`, `image_encoder`).

    Any part of it will do. Raises CheckpointError for a key that has no place in it.
    """
    expect("component", component, str, f"one of {', '.join(COMPONENTS)}")
    expect("config", config, ModelConfig, "a ModelConfig")
    given = as_tensors("tensors", tensors)
    keyed = {f"{component}/{key}": tensor for key, tensor in given.items()}
    return diffusers_table(config).to_ours(keyed)


def to_diffusers(
    tensors: Mapping[str, Tensor], config: ModelConfig
) -> dict[str, dict[str, Tensor]]:
    """The way back: for each component, diffusers' names and layouts of tensors named as ours."""
    expect("config", config, ModelConfig, "a ModelConfig")
    parts: dict[str, dict[str, Tensor]] = {component: {} for component in COMPONENTS}
    for key, tensor in diffusers_table(config).to_theirs(tensors).items():
        component, _, name = key.partition("/")
        parts[component][name] = tensor
    return parts


def _unet(theirs: str, ours: str, config: UNetConfig) -> Iterator[Rule]:
    names = {
        "time_embedding.linear_1": "time_embedding.linear_1",
        "time_embedding.linear_2": "time_embedding.linear_2",
        "add_embedding.linear_1": "vector_embedding.linear_1",
        "add_embedding.linear_2": "vector_embedding.linear_2",
        "conv_in": "conv_in",
        "conv_norm_out": "norm_out",
        "conv_out": "conv_out",
    }
    yield from layers(theirs, ours, names)
    widths = (config.channels[0], *config.channels)
    last = len(config.channels) - 1
    for i, (width, out) in enumerate(pairwise(widths)):
        level, our_level = f"{theirs}down_blocks.{i}.", f"{ours}down.{i}."
        for j in range(config.blocks):
            skip = j == 0 and width != out
            yield from _unet_res_block(f"{level}resnets.{j}.", f"{our_level}resnets.{j}.", skip)
            if config.attention[i]:
                yield from _transformer(f"{level}attentions.{j}.", f"{our_level}transformers.{j}.")
        if i != last:
            yield from layers(level, our_level, {"downsamplers.0.conv": "downsample"})
    for j in range(2):
        yield from _unet_res_block(f"{theirs}mid_block.resnets.{j}.", f"{ours}middle.resnets.{j}.")
    yield from _transformer(f"{theirs}mid_block.attentions.0.", f"{ours}middle.transformer.")
    for i, attention in enumerate(reversed(config.attention)):
        level, our_level = f"{theirs}up_blocks.{i}.", f"{ours}up.{i}."
        for j in range(config.blocks + 1):
            # Inputs are concatenated with what came down, so they are always wider than outputs.
            yield from _unet_res_block(f"{level}resnets.{j}.", f"{our_level}resnets.{j}.", True)
            if attention:
                yield from _transformer(f"{level}attentions.{j}.", f"{our_level}transformers.{j}.")
        if i != last:
            yield from layers(level, our_level, {"upsamplers.0.conv": "upsample"})


def _unet_res_block(theirs: str, ours: str, skip: bool = False) -> Iterator[Rule]:
    yield from _space_time_res_block(theirs, ours, skip)
    embedding = {"time_emb_proj": "embedding"}
    yield from layers(f"{theirs}spatial_res_block.", f"{ours}space.", embedding)
    yield from layers(f"{theirs}temporal_res_block.", f"{ours}time.", embedding)


def _space_time_res_block(theirs: str, ours: str, skip: bool) -> Iterator[Rule]:
    yield from _res_block(f"{theirs}spatial_res_block.", f"{ours}space.", skip)
    norms, convs = ({f"{kind}{i}": f"{kind}{i}" for i in (1, 2)} for kind in ("norm", "conv"))
    yield from layers(f"{theirs}temporal_res_block.", f"{ours}time.", norms)
    yield from layers(f"{theirs}temporal_res_block.", f"{ours}time.", convs, SQUEEZE)
    yield Rule(f"{theirs}time_mixer.mix_factor", (f"{ours}mix",))


def _res_block(theirs: str, ours: str, skip: bool) -> Iterator[Rule]:
    shortcut = {"conv_shortcut": "skip"} if skip else {}
    yield from layers(theirs, ours, {**FLAT_RES_BLOCK, **shortcut})


def _transformer(theirs: str, ours: str) -> Iterator[Rule]:
    names = {
        "norm": "norm",
        "proj_in": "proj_in",
        "proj_out": "proj_out",
        "time_pos_embed.linear_1": "frame_embedding.linear_1",
        "time_pos_embed.linear_2": "frame_embedding.linear_2",
    }
    yield from layers(theirs, ours, names)
    yield from transformer_block(f"{theirs}transformer_blocks.0.", f"{ours}space.")
    yield from time_transformer_block(f"{theirs}temporal_transformer_blocks.0.", f"{ours}time.")
    yield Rule(f"{theirs}time_mixer.mix_factor", (f"{ours}mix",))


ENDS = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}


def _vae(theirs: str, ours: str, config: VAEConfig) -> Iterator[Rule]:
    """AutoencoderKLTemporalDecoder, or AutoencoderKL for the frame-wise decoder."""
    yield from _encoder(f"{theirs}encoder.", f"{ours}encoder.", config)
    yield from layers(theirs, ours, {"quant_conv": "quant_conv"})
    yield from _decoder(f"{theirs}decoder.", f"{ours}decoder.", config)
    if config.temporal_decoder:
        yield from layers(
            f"{theirs}decoder.", f"{ours}decoder.", {"time_conv_out": "time_conv"}, SQUEEZE
        )
    else:
        yield from layers(theirs, ours, {"post_quant_conv": "post_quant_conv"})


def _encoder(theirs: str, ours: str, config: VAEConfig) -> Iterator[Rule]:
    yield from layers(theirs, ours, ENDS)
    widths = (config.channels[0], *config.channels)
    last = len(config.channels) - 1
    for i, (width, out) in enumerate(pairwise(widths)):
        level, our_level = f"{theirs}down_blocks.{i}.", f"{ours}down.{i}."
        for j in range(config.blocks):
            skip = j == 0 and width != out
            yield from _res_block(f"{level}resnets.{j}.", f"{our_level}resnets.{j}.", skip)
        if i != last:
            yield from layers(level, our_level, {"downsamplers.0.conv": "downsample"})
    for j in range(2):
        yield from _res_block(
            f"{theirs}mid_block.resnets.{j}.", f"{ours}middle.resnets.{j}.", False
        )
    yield from _vae_attention(theirs, ours)


def _decoder(theirs: str, ours: str, config: VAEConfig) -> Iterator[Rule]:
    block = _space_time_res_block if config.temporal_decoder else _res_block
    yield from layers(theirs, ours, ENDS)
    for j in range(2):
        yield from block(f"{theirs}mid_block.resnets.{j}.", f"{ours}middle.resnets.{j}.", False)
    yield from _vae_attention(theirs, ours)
    widths = (config.channels[-1], *reversed(config.channels))
    last = len(config.channels) - 1
    for i, (width, out) in enumerate(pairwise(widths)):
        level, our_level = f"{theirs}up_blocks.{i}.", f"{ours}up.{i}."
        for j in range(config.blocks + 1):
            skip = j == 0 and width != out
            yield from block(f"{level}resnets.{j}.", f"{our_level}resnets.{j}.", skip)
        if i != last:
            yield from layers(level, our_level, {"upsamplers.0.conv": "upsample"})


def _vae_attention(theirs: str, ours: str) -> Iterator[Rule]:
    names = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
    theirs, ours = f"{theirs}mid_block.attentions.0.", f"{ours}middle.attention."
    yield from layers(theirs, ours, {"group_norm": "norm"})
    yield from layers(theirs, f"{ours}attention.", names)


def _image_encoder(theirs: str, ours: str, config: ImageEncoderConfig) -> Iterator[Rule]:
    """transformers' CLIPVisionModelWithProjection; `pre_layrnorm` is spelt so there."""
    model = f"{theirs}vision_model."
    yield Rule(f"{model}embeddings.class_embedding", (f"{ours}class_embedding",))
    yield Rule(f"{model}embeddings.position_embedding.weight", (f"{ours}position_embedding",))
    yield from weights(model, ours, {"embeddings.patch_embedding": "patch_embedding"})
    yield from weights(theirs, ours, {"visual_projection": "projection"})
    yield from layers(model, ours, {"pre_layrnorm": "norm_pre", "post_layernorm": "norm_post"})
    names = {
        "layer_norm1": "norm1",
        **{f"self_attn.{x}_proj": f"attention.to_{x}" for x in "qkv"},
        "self_attn.out_proj": "attention.to_out",
        "layer_norm2": "norm2",
        "mlp.fc1": "mlp.linear_1",
        "mlp.fc2": "mlp.linear_2",
    }
    for i in range(config.layers):
        yield from layers(f"{model}encoder.layers.{i}.", f"{ours}layers.{i}.", names)
