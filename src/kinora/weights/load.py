"""Load the three networks of a model from any checkpoint."""

from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kinora.config import ModelConfig
from kinora.device import as_dtype, pick_device
from kinora.errors import CheckpointError
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet
from kinora.weights.changed import Changed
from kinora.weights.checkpoint import Checkpoint
from kinora.weights.fingerprint import fingerprint
from kinora.weights.hub import DEFAULT_HUB, Hub, locate
from kinora.weights.names import NETWORKS, meta_networks
from kinora.weights.open import open_checkpoint
from kinora.weights.read import bad_values

__all__ = ["Networks", "Source", "load_networks", "precision", "put"]

FP32_ALWAYS = ("vae.encoder.", "vae.quant_conv.")
"""The image branch of the autoencoder, whatever precision the rest runs in."""


class Source(NamedTuple):
    """A checkpoint that was found complete, to fill networks from: once, or whenever they work."""

    checkpoint: Checkpoint | Changed
    device: torch.device
    dtype: torch.dtype
    vae_dtype: torch.dtype
    prepare: Callable[[str, Tensor], Tensor] | None = None
    """What to make of each tensor, by its name, before a network is given it."""

    def read(self, name: str, device: torch.device | None = None) -> Tensor:
        """A tensor ("unet.conv_in.weight") as it is loaded, on the source's device or another.

        Kernels of convolutions are put in the channels-last memory format, which they would else be
        copied to at every call. On the CPU anything else in the file's own number format is the
        mapped file itself.
        Raises CheckpointError when it has values that are no numbers, or become none.
        """
        checkpoint, device = self.checkpoint, device or self.device
        dtype, stored = precision(name, self.dtype, self.vae_dtype), checkpoint.tensor(name)
        kernel = stored.ndim == 4 and stored.shape[2:] != (1, 1)
        if device.type == "cpu" and stored.dtype == dtype and not kernel:
            return _aligned(checkpoint.sound_tensor(name))
        layout = torch.channels_last if kernel else torch.contiguous_format
        loaded = torch.empty(stored.shape, dtype=dtype, device=device, memory_format=layout)
        loaded.copy_(stored)
        if bad_values(loaded.as_strided((loaded.numel(),), (1,))) is not None:
            checkpoint.sound_tensor(name)
            raise CheckpointError(
                f"{checkpoint.path}: tensor {name} has values that {dtype} can't hold; "
                "load it in bfloat16 or float32"
            )
        checkpoint.forget(name)
        return loaded

    def prepared(self, name: str, device: torch.device | None = None) -> Tensor:
        """A tensor as a network is given it: loaded, and quantised where that was asked for."""
        value = self.read(name, device)
        return self.prepare(name, value) if self.prepare else value

    def fill(self, network: str, module: nn.Module, stop: Event | None = None) -> None:
        """Give values to those parameters of a network that have none, until told to stop."""
        for name, parameter in module.named_parameters():
            if stop is not None and stop.is_set():
                return
            if parameter.is_meta:
                put(parameter, self.prepared(f"{network}.{name}"))

    def clear(self, network: str, module: nn.Module) -> None:
        """Take the values from all parameters of a network, and let go of their memory."""
        for name, parameter in module.named_parameters():
            self.take(f"{network}.{name}", parameter)

    def take(self, name: str, parameter: nn.Parameter) -> None:
        """Take the values from one parameter."""
        dtype = precision(name, self.dtype, self.vae_dtype)
        put(parameter, torch.empty(parameter.shape, dtype=dtype, device="meta"))
        self.checkpoint.forget(name)


def precision(name: str, dtype: torch.dtype, vae_dtype: torch.dtype) -> torch.dtype:
    """What a tensor ("unet.conv_in.weight") is loaded in."""
    if name.startswith(FP32_ALWAYS):
        return torch.float32
    return vae_dtype if name.startswith("vae.") else dtype


def put(parameter: nn.Parameter, tensor: Tensor) -> None:
    """Let a parameter, wherever it is known, be this tensor from now on."""
    torch.utils.swap_tensors(parameter, nn.Parameter(tensor, requires_grad=False))


class Networks(NamedTuple):
    """A model in memory: networks in evaluation mode, whose parameters ask for no gradients."""

    config: ModelConfig
    unet: VideoUNet
    vae: VideoAutoencoder
    image_encoder: ImageEncoder
    fingerprint: str
    notes: tuple[str, ...]
    """What the user should hear about how the checkpoint was understood."""
    source: Source | None = None
    """Where weights can be read again, if they come from a file."""


def load_networks(
    source: str | Path,
    *,
    device: str | torch.device,
    dtype: str | torch.dtype,
    vae_dtype: str | torch.dtype | None = None,
    variant: str | None = None,
    hub: Hub = DEFAULT_HUB,
    empty: bool = False,
    prepare: Callable[[str, Tensor], Tensor] | None = None,
) -> Networks:
    """Load a model.

    source: an alias ("nano", "svd", "svd-xt", "svd-xt-1.1"), a hub id, a folder or a file.
    device, dtype: a name such as "cpu" and "float16", or torch's own object.
    dtype: of all parameters but those of the autoencoder's encoder, which are always fp32.
    vae_dtype: of the autoencoder's decoder, where it should be another.
    variant: the published model it should be, for files that don't tell.
    hub: how to ask the hub for what isn't on disk.
    empty: leave the networks without values; all is checked but for the values themselves.
    prepare: what to make of each tensor, by its name, before a network is given it.

    Nothing is held twice: modules are built without memory, the file is mapped, and each tensor is
    taken as it lies there or converted on its own (see `Source.read`).
    Raises CheckpointError when the checkpoint is missing, damaged, incomplete or something else,
    and DeviceError for a device or number format that there isn't.
    """
    device, dtype = pick_device(device), as_dtype(dtype)
    vae_dtype = dtype if vae_dtype is None else as_dtype(vae_dtype)
    half = dtype in (torch.float16, torch.bfloat16)
    found = locate(source, half=half, hub=hub)
    checkpoint = open_checkpoint(
        found.path, variant=found.variant if variant is None else variant, half=half
    )
    checkpoint.check()
    mark = fingerprint(checkpoint)
    networks = meta_networks(checkpoint.config)
    weights = Source(checkpoint, device, dtype, vae_dtype, prepare)
    for name, module in zip(NETWORKS, networks, strict=True):
        weights.clear(name, module.requires_grad_(False).eval())
        if not empty:
            weights.fill(name, module)
    return Networks(checkpoint.config, *networks, mark, checkpoint.notes, weights)


def _aligned(tensor: Tensor) -> Tensor:
    """Kernels want whole rows and addresses that fit the number format; most files give both."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor
