"""How an autoencoder begins: from nothing, or from one that saw single frames only."""

import re
from pathlib import Path
from typing import cast

import torch
from torch import nn

from kinora.config import VAEConfig
from kinora.errors import CheckpointError
from kinora.models import VideoAutoencoder
from kinora.models.attention import Attention
from kinora.models.resnet import ResBlock, zero_
from kinora.train.export import read_vae

__all__ = ["new_vae", "start_from"]

QUIET = -6.0
"""Log variance of a fresh posterior. From a deviation of 1, several times that of fresh latents,
an autoencoder first learns for hundreds of steps to outgrow its own noise."""


@torch.no_grad()
def new_vae(config: VAEConfig) -> VideoAutoencoder:
    """A fresh autoencoder, in which every block starts by doing nothing.

    Residual blocks and the last convolution over time are the identity: it learns sooner so than
    from random ones. A frame-wise decoder's post_quant_conv is the identity and stays so, since
    `start_from` leaves it out.
    """
    network = VideoAutoencoder(config)
    for module in network.modules():
        if isinstance(module, ResBlock):
            zero_(module.conv2)
        elif isinstance(module, Attention):
            zero_(module.to_out)
    bias = network.quant_conv.bias
    if bias is not None:
        bias[config.latent_channels :] = QUIET
    for layer in (network.decoder.time_conv, network.post_quant_conv):
        if layer is not None:
            _identity(layer)
    if network.post_quant_conv is not None:
        network.post_quant_conv.requires_grad_(False)
    return network


def start_from(network: VideoAutoencoder, path: Path) -> None:
    """Take over the weights of a trained autoencoder of the same widths.

    From a frame-wise one the blocks in space are taken; those in time stay as they are, the
    identity, so that frames come out the same. Its encoder is fixed: latents stay what they were,
    and only the decoder learns to make clips of them. (As SVD's own was made: Blattmann et al.
    2023, "Align your Latents", section 3.1.2)
    Raises CheckpointError when the widths differ.
    """
    _, trained = read_vae(path, torch.device("cpu"))
    state = trained.state_dict()
    frame_wise = trained.post_quant_conv is not None and network.post_quant_conv is None
    if frame_wise:
        block = re.compile(r"^(decoder\..*resnets\.\d+\.)")
        state = {
            block.sub(r"\1space.", name): tensor
            for name, tensor in state.items()
            if not name.startswith("post_quant_conv.")
        }
    try:
        keys = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"{path} is of other widths than this run: {error}") from error
    young = re.compile(r"\.time\.|\.mix$|time_conv")
    names = cast(list[str], keys.missing_keys), cast(list[str], keys.unexpected_keys)
    strange = [name for name in names[0] if not young.search(name)] + names[1]
    if strange:
        raise CheckpointError(f"{path} is another kind of autoencoder: see {strange[0]}")
    if frame_wise:
        network.encoder.requires_grad_(False)
        network.quant_conv.requires_grad_(False)


def _identity(layer: nn.Conv2d) -> None:
    nn.init.dirac_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
