"""Our networks with diffusers' calls, outputs, configurations and tensor names."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    _IncompatibleKeys as Incompatible,  # pyright: ignore[reportPrivateUsage]
)

from kinora.device import with_index
from kinora.errors import RequestError
from kinora.pipeline import Pipeline
from kinora.runtime.packed import Packed
from kinora.types import Condition
from kinora.weights import from_diffusers, to_diffusers
from kinora.weights.diffusers import diffusers_table
from kinora.weights.folder_export import folder_configs
from kinora.weights.names import living_shapes

__all__ = ["VAE", "Component", "ImageEncoder", "Settings", "UNet"]


class Settings(dict[str, Any]):
    """A network's configuration as diffusers writes it, read by key or by attribute."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name not in self:
            raise AttributeError(f"the configuration has no {name}")
        return self[name]


class Sample(NamedTuple):
    """Output of a UNet, or of a decoder."""

    sample: Tensor


class Encoded(NamedTuple):
    """Output of an encoder."""

    latent_dist: "Posterior"


class Embedded(NamedTuple):
    """Output of an image encoder."""

    image_embeds: Tensor


class Posterior(NamedTuple):
    """The distribution of pictures' latents, which are not scaled."""

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        return (self.logvar.clamp(-30, 20) / 2).exp()

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        device = generator.device if generator is not None else self.mean.device
        noise = torch.randn(
            self.mean.shape, generator=generator, device=device, dtype=self.mean.dtype
        )
        return self.mean + self.std * noise.to(self.mean.device)


class Component(nn.Module):
    """A network that holds its weights while it works, be it called by the pipeline or by hand.

    For inference: no gradients are kept. Its weights are changed with `load_state_dict`; what is
    written into parameters in place is lost when they are read again.
    """

    def __init__(self, name: str, pipeline: Pipeline) -> None:
        super().__init__()
        self.name = name
        self.pipeline = pipeline
        self.network: nn.Module = getattr(pipeline, name)
        folder = folder_configs(pipeline.config, torch.float32)
        self.config = Settings(folder[f"{name}/config.json"])

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pipeline.dtype

    @contextmanager
    def working(self) -> Generator[None, None, None]:
        """Within it the network can be called, and computes in its own precision."""
        with (
            torch.no_grad(),
            self.pipeline.residency.borrow(self.name),
            self.pipeline.computing(),
        ):
            yield

    def to(self, *args: Any, **kwargs: Any) -> "Component":  # noqa: ANN401
        """Taken where it changes nothing; networks move together, by `pipe.to`.

        Raises RequestError.
        """
        parsed = cast(Any, torch)._C._nn._parse_to(*args, **kwargs)
        device, dtype = cast(tuple[torch.device | None, torch.dtype | None], parsed[:2])
        if device is not None and with_index(device) != with_index(self.device):
            raise RequestError(f"{self.name}.to({device}): networks move together; use pipe.to(…)")
        if dtype is not None and dtype != self.dtype:
            self._cast(dtype)
        return self

    def _cast(self, dtype: torch.dtype) -> None:
        raise RequestError(
            f"{self.name}.to({dtype}): this network has the pipeline's precision; use pipe.to(…)"
        )

    def _apply(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        raise RequestError(
            f"the {self.name} can't be moved or converted by itself: use pipe.to(device, dtype)"
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:  # noqa: ANN401
        """The weights by diffusers' names, without those that have no effect (queries, keys and
        norms of attention to a single token)."""
        network = getattr(self.pipeline.networks, self.name)
        with self.pipeline.residency.hold(self.name):
            state = cast(Mapping[str, Tensor], network.state_dict())
            tensors = {f"{self.name}.{key}": _plain(t) for key, t in state.items()}
        return to_diffusers(tensors, self.pipeline.config)[self.name]

    def load_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Incompatible:
        """Replace weights by others of diffusers' names, or of ours. They are copied.

        strict: whether all must be there and have a place. Those without effect may be missing.
        Raises RequestError, also when no tensor has a place; CheckpointError for other shapes and
        for values that are not finite.
        """
        config, name = self.pipeline.config, self.name
        table, living = diffusers_table(config), living_shapes(config)
        known = {k: t for k, t in state_dict.items() if f"{name}/{k}" in table.rules}
        ours = {f"{name}.{k}": t for k, t in state_dict.items() if k not in known}
        found = {
            **{k: t for k, t in ours.items() if k in living},
            **{k: t for k, t in from_diffusers(name, known, config).items() if k in living},
        }
        unexpected = [k for k in state_dict if k not in known and f"{name}.{k}" not in living]
        absent = [k for k in living if k.startswith(f"{name}.") and k not in found]
        missing = [table.source(k).theirs.removeprefix(f"{name}/") for k in absent]
        if not found or (strict and (missing or unexpected)):
            raise RequestError(
                f"{name}.load_state_dict: {len(found)} of {len(found) + len(absent)} tensors found"
                f"{_some('; missing: ', missing)}{_some('; with no place here: ', unexpected)}. "
                "Names must be diffusers' own or Kinora's"
            )
        self.pipeline.change_weights(name, {k.removeprefix(f"{name}."): found[k] for k in found})
        return Incompatible(missing, unexpected)


class UNet(Component):
    """diffusers' UNetSpatioTemporalConditionModel."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__("unet", pipeline)
        self.conditions: list[Condition] = []
        """The latest ones: what is computed once a clip is known by their identity."""

    @torch.compiler.disable  # holding weights and remembering conditions can't be compiled
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        added_time_ids: Tensor,
        return_dict: bool = True,
    ) -> Sample:
        """sample: [b, t, 8, h, w], scaled noisy latents and the photo's latents."""
        if encoder_hidden_states.shape[1] != 1:
            raise RequestError(
                f"encoder_hidden_states of shape {list(encoder_hidden_states.shape)}: must be one "
                "embedding a clip, [b, 1, d]"
            )
        latent = self.pipeline.config.unet.latent_channels
        x, image = sample[:, :, :latent], sample[:, :, latent:]
        if bool((image == image[:, :1]).all()):
            image = image[:, :1]
        condition = self._known(Condition(image, encoder_hidden_states, added_time_ids))
        c_noise = torch.as_tensor(timestep, dtype=torch.float32, device=sample.device)
        with self.working():
            return Sample(self.network(x, c_noise.expand(len(sample)), condition))

    def _known(self, condition: Condition) -> Condition:
        """The same condition of an earlier call, if there is one."""
        for known in self.conditions:
            pairs = list(zip(known, condition, strict=True))
            if all(
                (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device) and a.equal(b)
                for a, b in pairs
            ):
                return known
        self.conditions = [*self.conditions[-1:], Condition(*(part.clone() for part in condition))]
        return self.conditions[-1]

    def enable_forward_chunking(self, chunk_size: int | None = None, dim: int = 0) -> None:
        """Taken, without effect."""


class VAE(Component):
    """diffusers' AutoencoderKLTemporalDecoder. Its encoder is always in fp32."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__("vae", pipeline)

    @property
    def dtype(self) -> torch.dtype:
        return self.pipeline.vae.decoder.conv_in.weight.dtype

    def encode(self, x: Tensor, return_dict: bool = True) -> Encoded:
        """x: pictures [b, 3, height, width] in [-1, 1]."""
        with self.working():
            images = torch.split(x.to(self.device), 1)
            moments = torch.cat([self.pipeline.vae.encode(image) for image in images])
        return Encoded(Posterior(*moments.chunk(2, dim=1)))

    def decode(self, z: Tensor, num_frames: int = 1, return_dict: bool = True) -> Sample:
        """z: latents [b·t, 4, h, w], not scaled. Returns [b·t, 3, height, width] in fp32."""
        latents = z.to(self.device).reshape(-1, num_frames, *z.shape[1:])
        with torch.no_grad():
            (frames,) = self.pipeline.decode(latents * self.pipeline.config.vae.scale)
        return Sample(frames.flatten(0, 1))

    def forward(self, sample: Tensor, num_frames: int = 1, return_dict: bool = True) -> Sample:
        """Encode and decode again."""
        return self.decode(self.encode(sample).latent_dist.mode(), num_frames)

    def _cast(self, dtype: torch.dtype) -> None:
        self.pipeline.move(vae_dtype=dtype)


class ImageEncoder(Component):
    """transformers' CLIPVisionModelWithProjection."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__("image_encoder", pipeline)

    def forward(self, pixel_values: Tensor, return_dict: bool = True) -> Embedded:
        """pixel_values: [b, 3, 224, 224], normalised with CLIP's statistics."""
        with self.working():
            pixels = pixel_values.to(self.device)
            return Embedded(self.pipeline.image_encoder.encode(pixels)[:, 0])


def _plain(tensor: Tensor) -> Tensor:
    return tensor.kernel.dense() if isinstance(tensor, Packed) else tensor


def _some(title: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{title}{shown}" if names else ""
