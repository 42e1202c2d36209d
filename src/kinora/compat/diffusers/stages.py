"""What a call does with its networks, be they our own or others with diffusers' calls."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from kinora.compat.diffusers.networks import Component
from kinora.compat.diffusers.surface import METHODS
from kinora.config import ModelConfig
from kinora.models.image_encoder import preprocess
from kinora.photo_cache import PhotoCache
from kinora.pipeline import Pipeline
from kinora.types import Answers, Condition, Frames, Latents, Network, PerClip

__all__ = [
    "changes",
    "decode",
    "embed",
    "encode",
    "foreign",
    "holding",
    "network",
    "per_video",
    "sides",
]


@runtime_checkable
class Pipe(Protocol):
    """A pipeline with networks."""

    pipeline: Pipeline
    unet: Any
    vae: Any
    image_encoder: Any


def holding(pipe: Pipe, name: str) -> AbstractContextManager[None]:
    """Within it our network of this name holds its weights, unless it was replaced."""
    if _is_foreign(getattr(pipe, name)):
        return nullcontext()
    return pipe.pipeline.residency.hold(name)


def foreign(components: Mapping[str, Any]) -> Iterable[nn.Module]:
    """The networks that are none of ours, nor wrapped around one."""
    return (cast(nn.Module, value) for value in components.values() if _is_foreign(value))


def embed(pipe: Pipe, photos: Sequence[Tensor]) -> Tensor:
    """The image encoder's embeddings of photos in [-1, 1], of equal ones once. [b, 1, d]"""
    side, encoder = pipe.pipeline.config.image_encoder.image_size, pipe.image_encoder

    def compute(pictures: list[Tensor]) -> list[Tensor]:
        with holding(pipe, "image_encoder"):
            pixels = [preprocess(picture.to(pipe.pipeline.device), side) for picture in pictures]
            given = [p.to(_dtype(encoder, p)) for p in pixels]
            return [encoder(p).image_embeds[:, None] for p in given]

    return torch.cat(PhotoCache().encode("image", photos, compute))


def encode(pipe: Pipe, images: Tensor) -> Tensor:
    """The latents of pictures in [-1, 1], not scaled, of equal ones once. [b, c, h, w]"""
    vae, own = pipe.vae, not _is_foreign(pipe.vae)

    def compute(pictures: list[Tensor]) -> list[Tensor]:
        with holding(pipe, "vae"):
            given = [p if own else p.to(_dtype(vae, p)) for p in pictures]
            return [vae.encode(p).latent_dist.mode() for p in given]

    return torch.cat(PhotoCache().encode("vae", torch.split(images, 1), compute))


def decode(pipe: Pipe, latents: Latents, chunk: int) -> Frames:
    """Frames in fp32, some of a clip at a time."""
    clips: list[Tensor] = []
    with holding(pipe, "vae"):
        for clip in latents / pipe.vae.config.scaling_factor:
            parts = [part.to(_dtype(pipe.vae, part)) for part in torch.split(clip, chunk)]
            frames = [pipe.vae.decode(part, num_frames=len(part)).sample for part in parts]
            clips.append(torch.cat(frames).float())
    return torch.stack(clips)


def network(unet: Any) -> Network:  # noqa: ANN401
    """A UNet with diffusers' call, as samplers call it."""

    def call(x: Latents, c_noise: PerClip, condition: Condition, /) -> Answers:
        dtype = _dtype(unet, x)
        image = condition.image.expand(-1, x.shape[1], -1, -1, -1)
        repeated = x.repeat(len(image) // len(x), 1, 1, 1, 1)
        return unet(
            torch.cat([repeated.to(dtype), image.to(dtype)], dim=2),
            c_noise[0],  # all clips are at the same level
            encoder_hidden_states=condition.context.to(dtype),
            added_time_ids=condition.vector,
            return_dict=False,
        )[0]

    return call


def per_video(photos: Tensor, videos: int, guided: bool) -> Tensor:
    """What belongs to photos, for several clips of each; with guidance, zeros come first."""
    clips = photos.repeat_interleave(videos, dim=0)
    return torch.cat([torch.zeros_like(clips), clips]) if guided else clips


def sides(config: ModelConfig, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of latents, from width and height in pixels."""
    width, height = size
    return height // config.vae.factor, width // config.vae.factor


def changes(pipe: Pipe) -> dict[str, object]:
    """For the recipe of a clip: what was not the model's own, so that its fingerprint is void."""
    replaced = [n for n in ("unet", "vae", "image_encoder") if not _is_own(getattr(pipe, n))]
    bases = [vars(cls) for cls in type(pipe).__mro__ if not cls.__module__.startswith("kinora.")]
    overridden = [n for n in METHODS if any(n in names for names in (vars(pipe), *bases[:-1]))]
    found = replaced + overridden
    return {"changed": found, **({"fingerprint": None} if replaced else {})} if found else {}


def _is_own(network: Any) -> bool:  # noqa: ANN401
    network = getattr(network, "_orig_mod", network)  # of a compiled one
    return isinstance(network, Component) and "forward" not in vars(network)


def _is_foreign(network: Any) -> bool:  # noqa: ANN401
    if not isinstance(network, nn.Module):
        return False
    return not any(isinstance(module, Component) for module in network.modules())


def _dtype(network: Any, like: Tensor) -> torch.dtype:  # noqa: ANN401
    """The precision that a network is given its inputs in."""
    return getattr(network, "dtype", like.dtype)
