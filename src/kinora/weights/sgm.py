"""The names of the original single-file checkpoints (generative-models; ComfyUI and DiffSynth too).

Blocks are numbered flatly there, so the table is a function of the configuration.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import count, pairwise

from torch import Tensor

from kinora.arguments import expect
from kinora.config import ImageEncoderConfig, ModelConfig, UNetConfig, VAEConfig
from kinora.weights.blocks import FLAT_RES_BLOCK, time_transformer_block, transformer_block
from kinora.weights.keymap import (
    SPLIT3,
    SQUEEZE,
    SQUEEZE2,
    TRANSPOSE,
    KeyMap,
    Rule,
    layers,
    weights,
)

__all__ = ["from_sgm", "sgm_table", "to_sgm"]

UNET = "model.diffusion_model."
CLIP = "conditioner.embedders.0.open_clip.model."
CONDITION_VAE = "conditioner.embedders.3.encoder."
FIRST_STAGE = "first_stage_model."

RES_NORMS = {"in_layers.0": "norm1", "out_layers.0": "norm2"}
RES_CONVS = {"in_layers.2": "conv1", "out_layers.3": "conv2"}


@lru_cache(maxsize=8)
def sgm_table(config: ModelConfig) -> KeyMap:
    """The table of a whole single-file checkpoint, leftovers included."""

    def rules() -> Iterator[Rule]:
        yield from _unet(UNET, "unet.", config.unet)
        yield from _image_encoder(f"{CLIP}visual.", "image_encoder.", config.image_encoder)
        yield from _text_leftovers(CLIP, "unused.text_encoder.")
        yield from _encoder(f"{CONDITION_VAE}encoder.", "vae.encoder.", config.vae)
        yield from layers(CONDITION_VAE, "vae.", {"quant_conv": "quant_conv"})
        yield from _frame_decoder(CONDITION_VAE, "unused.condition_vae.", config.vae)
        yield from _encoder(f"{FIRST_STAGE}encoder.", "unused.vae.encoder.", config.vae)
        if config.vae.temporal_decoder:
            yield from _decoder(f"{FIRST_STAGE}decoder.", "vae.decoder.", config.vae, time=True)
            yield from _time_conv(f"{FIRST_STAGE}decoder.conv_out.", "vae.decoder.")
        else:
            yield from _frame_decoder(FIRST_STAGE, "vae.", config.vae)
            yield from layers(FIRST_STAGE, "unused.vae.", {"quant_conv": "quant_conv"})

    return KeyMap(rules())


def from_sgm(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our names and layouts of tensors named as in the original: `unet.…`, `vae.…`,
    `image_encoder.…`, and `unused.…` for what no network of ours has.

    Any part of a checkpoint will do. Raises CheckpointError for a key that has no place in it.
    """
    return sgm_table(expect("config", config, ModelConfig, "a ModelConfig")).to_ours(tensors)


def to_sgm(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The way back: the original's names and layouts of tensors named as ours."""
    return sgm_table(expect("config", config, ModelConfig, "a ModelConfig")).to_theirs(tensors)


def _unet(theirs: str, ours: str, config: UNetConfig) -> Iterator[Rule]:
    embeddings = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "label_emb.0.0": "vector_embedding.linear_1",
        "label_emb.0.2": "vector_embedding.linear_2",
    }
    ends = {"input_blocks.0.0": "conv_in", "out.0": "norm_out", "out.2": "conv_out"}
    yield from layers(theirs, ours, {**embeddings, **ends})
    yield from _down(f"{theirs}input_blocks.", f"{ours}down.", config)
    for part, name in (("0", "resnets.0"), ("2", "resnets.1")):
        yield from _space_time_res_block(f"{theirs}middle_block.{part}.", f"{ours}middle.{name}.")
    yield from _transformer(f"{theirs}middle_block.1.", f"{ours}middle.transformer.")
    yield from _up(f"{theirs}output_blocks.", f"{ours}up.", config)


def _down(theirs: str, ours: str, config: UNetConfig) -> Iterator[Rule]:
    number = count(1)
    width = config.channels[0]
    last = len(config.channels) - 1
    for i, (out, attention) in enumerate(zip(config.channels, config.attention, strict=True)):
        for j in range(config.blocks):
            n = next(number)
            yield from _space_time_res_block(
                f"{theirs}{n}.0.", f"{ours}{i}.resnets.{j}.", skip=width != out
            )
            if attention:
                yield from _transformer(f"{theirs}{n}.1.", f"{ours}{i}.transformers.{j}.")
            width = out
        if i != last:
            yield from layers(f"{theirs}{next(number)}.0.", f"{ours}{i}.", {"op": "downsample"})


def _up(theirs: str, ours: str, config: UNetConfig) -> Iterator[Rule]:
    number = count()
    last = len(config.channels) - 1
    for i, attention in enumerate(reversed(config.attention)):
        for j in range(config.blocks + 1):
            n = next(number)
            # Inputs are concatenated with what came down, so they are always wider than outputs.
            yield from _space_time_res_block(
                f"{theirs}{n}.0.", f"{ours}{i}.resnets.{j}.", skip=True
            )
            if attention:
                yield from _transformer(f"{theirs}{n}.1.", f"{ours}{i}.transformers.{j}.")
            if j == config.blocks and i != last:
                place = 2 if attention else 1
                yield from layers(f"{theirs}{n}.{place}.", f"{ours}{i}.", {"conv": "upsample"})


def _space_time_res_block(theirs: str, ours: str, *, skip: bool = False) -> Iterator[Rule]:
    embedding = {"emb_layers.1": "embedding"}
    shortcut = {"skip_connection": "skip"} if skip else {}
    yield from layers(theirs, f"{ours}space.", {**RES_NORMS, **RES_CONVS, **embedding, **shortcut})
    yield from _time_res_block(f"{theirs}time_stack.", f"{ours}time.")
    yield from layers(f"{theirs}time_stack.", f"{ours}time.", embedding)
    yield Rule(f"{theirs}time_mixer.mix_factor", (f"{ours}mix",))


def _time_res_block(theirs: str, ours: str) -> Iterator[Rule]:
    yield from layers(theirs, ours, RES_NORMS)
    yield from layers(theirs, ours, RES_CONVS, SQUEEZE)


def _transformer(theirs: str, ours: str) -> Iterator[Rule]:
    yield from layers(
        theirs,
        ours,
        {
            "norm": "norm",
            "proj_in": "proj_in",
            "proj_out": "proj_out",
            "time_pos_embed.0": "frame_embedding.linear_1",
            "time_pos_embed.2": "frame_embedding.linear_2",
        },
    )
    yield from transformer_block(f"{theirs}transformer_blocks.0.", f"{ours}space.")
    yield from time_transformer_block(f"{theirs}time_stack.0.", f"{ours}time.")
    yield Rule(f"{theirs}time_mixer.mix_factor", (f"{ours}mix",))


ENDS = {"conv_in": "conv_in", "norm_out": "norm_out", "conv_out": "conv_out"}


def _encoder(theirs: str, ours: str, config: VAEConfig) -> Iterator[Rule]:
    yield from layers(theirs, ours, ENDS)
    widths = (config.channels[0], *config.channels)
    last = len(config.channels) - 1
    for i, (width, out) in enumerate(pairwise(widths)):
        for j in range(config.blocks):
            yield from _res_block(
                f"{theirs}down.{i}.block.{j}.",
                f"{ours}down.{i}.resnets.{j}.",
                skip=j == 0 and width != out,
            )
        if i != last:
            yield from layers(
                f"{theirs}down.{i}.", f"{ours}down.{i}.", {"downsample.conv": "downsample"}
            )
    yield from _middle(f"{theirs}mid.", f"{ours}middle.", time=False)


def _decoder(theirs: str, ours: str, config: VAEConfig, *, time: bool) -> Iterator[Rule]:
    yield from layers(theirs, ours, ENDS)
    yield from _middle(f"{theirs}mid.", f"{ours}middle.", time=time)
    widths = (config.channels[-1], *reversed(config.channels))
    last = len(config.channels) - 1
    for i, (width, out) in enumerate(pairwise(widths)):
        their_level = f"{theirs}up.{last - i}."
        for j in range(config.blocks + 1):
            yield from _res_block(
                f"{their_level}block.{j}.",
                f"{ours}up.{i}.resnets.{j}.",
                skip=j == 0 and width != out,
                time=time,
            )
        if i != last:
            yield from layers(their_level, f"{ours}up.{i}.", {"upsample.conv": "upsample"})


def _frame_decoder(theirs: str, ours: str, config: VAEConfig) -> Iterator[Rule]:
    yield from _decoder(f"{theirs}decoder.", f"{ours}decoder.", config, time=False)
    yield from layers(theirs, ours, {"post_quant_conv": "post_quant_conv"})


def _time_conv(theirs: str, ours: str) -> Iterator[Rule]:
    yield from layers(theirs, ours, {"time_mix_conv": "time_conv"}, SQUEEZE)


def _middle(theirs: str, ours: str, *, time: bool) -> Iterator[Rule]:
    for part, name in (("block_1", "resnets.0"), ("block_2", "resnets.1")):
        yield from _res_block(f"{theirs}{part}.", f"{ours}{name}.", time=time)
    attention = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out"}
    yield from layers(f"{theirs}attn_1.", f"{ours}attention.", {"norm": "norm"})
    yield from layers(f"{theirs}attn_1.", f"{ours}attention.attention.", attention, SQUEEZE2)


def _res_block(theirs: str, ours: str, *, skip: bool = False, time: bool = False) -> Iterator[Rule]:
    """A residual block of the autoencoder; over space and time in the temporal decoder."""
    space = f"{ours}space." if time else ours
    shortcut = {"nin_shortcut": "skip"} if skip else {}
    yield from layers(theirs, space, {**FLAT_RES_BLOCK, **shortcut})
    if time:
        yield from _time_res_block(f"{theirs}time_stack.", f"{ours}time.")
        yield Rule(f"{theirs}mix_factor", (f"{ours}mix",))


def _image_encoder(theirs: str, ours: str, config: ImageEncoderConfig) -> Iterator[Rule]:
    yield Rule(f"{theirs}class_embedding", (f"{ours}class_embedding",))
    yield Rule(f"{theirs}positional_embedding", (f"{ours}position_embedding",))
    yield Rule(f"{theirs}proj", (f"{ours}projection.weight",), TRANSPOSE)
    yield from weights(theirs, ours, {"conv1": "patch_embedding"})
    yield from layers(theirs, ours, {"ln_pre": "norm_pre", "ln_post": "norm_post"})
    for i in range(config.layers):
        layer, our_layer = f"{theirs}transformer.resblocks.{i}.", f"{ours}layers.{i}."
        for part in ("weight", "bias"):
            qkv = tuple(f"{our_layer}attention.to_{x}.{part}" for x in "qkv")
            yield Rule(f"{layer}attn.in_proj_{part}", qkv, SPLIT3)
        names = {
            "ln_1": "norm1",
            "attn.out_proj": "attention.to_out",
            "ln_2": "norm2",
            "mlp.c_fc": "mlp.linear_1",
            "mlp.c_proj": "mlp.linear_2",
        }
        yield from layers(layer, our_layer, names)


def _text_leftovers(theirs: str, ours: str) -> Iterator[Rule]:
    """What the image embedder still carries of the text half of its model."""
    for key in ("logit_scale", "positional_embedding", "text_projection"):
        yield Rule(f"{theirs}{key}", (f"{ours}{key}",))
    yield from layers(theirs, ours, {"ln_final": "ln_final"})
    yield from weights(theirs, ours, {"token_embedding": "token_embedding"})
