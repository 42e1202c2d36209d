"""What differs between models: plain frozen data, and the models that are known.

No torch here, so that the command line and the server can check a request at once.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Final, cast, get_args

from kinora.arguments import as_integer, as_number, expect, shown
from kinora.errors import CheckpointError, RequestError

__all__ = [
    "ALIASES",
    "CONSISTENCY_LEVELS",
    "CONSISTENCY_STEPS",
    "MAX_CONSISTENCY_STEPS",
    "NANO",
    "SVD",
    "SVD_XT",
    "SVD_XT_1_1",
    "TINY",
    "ImageEncoderConfig",
    "ModelConfig",
    "UNetConfig",
    "VAEConfig",
    "config_from_dict",
    "config_to_dict",
    "known_config",
]

CONSISTENCY_LEVELS: Final = 40
"""Noise levels between which consistency models of SVD were distilled. (AnimateLCM: Wang et al.
2024)"""
CONSISTENCY_STEPS: Final = 4
"""What a consistency model takes unless more are asked for; its authors' choice."""
MAX_CONSISTENCY_STEPS: Final = CONSISTENCY_LEVELS // 2
"""Every (40 // n)-th level is visited, so that n above 20 would visit the first n of all 40 and
jump to 0 from wherever the n-th one is (0.75 for 30)."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise RequestError(message)


def _check_types(config: object) -> None:
    """Each field holds what its type promises. Raises RequestError that names the one that doesn't.

    Whole numbers count something, so they are positive (but for `motion`, which may be 0).
    """
    for part in fields(cast(Any, config)):
        value, kind = getattr(config, part.name), part.type
        name = f"{type(config).__name__}.{part.name}"
        if kind is int:
            value = as_integer(name, value, 0 if part.name == "motion" else 1)
        elif kind is float:
            value = as_number(name, value, 0, float("inf"))
        elif kind in (bool, str):
            expect(name, value, cast(type, kind), "True or False" if kind is bool else "text")
        elif isinstance(kind, type) and is_dataclass(kind):
            expect(name, value, kind, f"a {kind.__name__}")
        else:
            value = _tuple(name, value, get_args(kind)[0])
        object.__setattr__(config, part.name, value)


def _tuple(name: str, value: object, kind: type) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise RequestError(f"{name} {shown(value)}: must be a tuple")
    items = cast("list[object]", value)
    if kind is int:
        return tuple(as_integer(name, item, 1) for item in items)
    if kind is float:
        return tuple(float(as_number(name, item, 0, float("inf"))) for item in items)
    return tuple(expect(name, item, bool, "a tuple of True and False") for item in items)


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetConfig:
    """Shape of the video UNet. The defaults are the published models'."""

    latent_channels: int = 4
    """Channels of a latent; the network reads twice as many (noisy latent, photo's latent)."""
    channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Width of each level; every level but the last halves the size."""
    blocks: int = 2
    """Residual blocks of a level going down; going up there is one more."""
    attention: tuple[bool, ...] = (True, True, True, False)
    """Which levels have transformers; the middle always has one."""
    heads: tuple[int, ...] = (5, 10, 20, 20)
    """Attention heads of each level; the middle has the last one's."""
    context_dim: int = 1024
    """Width of the image encoder's embedding."""
    vector_ids: int = 3
    """How many numbers a clip is told (fps − 1, motion, noise_aug)."""
    vector_dim: int = 256
    """Width of the sinusoid made of each of them."""
    norm_groups: int = 32

    def __post_init__(self) -> None:
        _check_types(self)
        levels = len(self.channels)
        _require(
            levels == len(self.attention) == len(self.heads),
            f"unet: channels {self.channels}, attention {self.attention} and heads {self.heads} "
            "must have one entry for each level",
        )
        for width, heads in zip(self.channels, self.heads, strict=True):
            _require(
                width % heads == 0 and width % self.norm_groups == 0 and width % 2 == 0,
                f"unet: a width of {width} must be even and divisible by its {heads} heads "
                f"and by the {self.norm_groups} norm groups",
            )

    @property
    def embedding_dim(self) -> int:
        """Width of the time and vector embeddings."""
        return 4 * self.channels[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class VAEConfig:
    """Shape of the autoencoder: a 2D encoder, and a decoder with or without time."""

    latent_channels: int = 4
    channels: tuple[int, ...] = (128, 256, 512, 512)
    """Width of each level; every level but the last halves the size."""
    blocks: int = 2
    """Residual blocks of a level of the encoder; the decoder has one more."""
    norm_groups: int = 32
    scale: float = 0.18215
    """What latents are multiplied by for the sampler, to give them about unit variance."""
    temporal_decoder: bool = True
    """False for the frame-wise decoder, which has a post_quant_conv instead of time layers."""

    def __post_init__(self) -> None:
        _check_types(self)
        for width in self.channels:
            _require(
                width % self.norm_groups == 0,
                f"vae: a width of {width} must be divisible by the {self.norm_groups} norm groups",
            )

    @property
    def factor(self) -> int:
        """Pixels along one side of a latent."""
        return 2 ** (len(self.channels) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageEncoderConfig:
    """Shape of the vision transformer that others call CLIP: OpenCLIP's ViT-H/14 by default."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1280
    layers: int = 32
    heads: int = 16
    mlp_width: int = 5120
    output_dim: int = 1024

    def __post_init__(self) -> None:
        _check_types(self)
        _require(
            self.width % self.heads == 0 and self.image_size % self.patch_size == 0,
            f"image encoder: width {self.width} must be divisible by {self.heads} heads, and image "
            f"size {self.image_size} by patch size {self.patch_size}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A whole model: three networks, how it was trained, and what it does unless told otherwise."""

    name: str
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)

    frames: int
    """Frames that it was trained on."""
    width: int = 1024
    height: int = 576
    """Trained size in pixels; photos of another shape take it turned or squared."""
    sigma_min: float = 0.002
    sigma_max: float = 700.0
    rho: float = 7.0
    """Karras et al. 2022, equation 5."""

    steps: int = 25
    guidance: tuple[float, float] = (1.0, 3.0)
    """Guidance scale of the first and of the last frame."""
    fps: int = 7
    motion: int = 127
    """0–255; what other tools call motion_bucket_id."""
    noise_aug: float = 0.02
    """Deviation of the noise added to the photo, in units of pixels in [-1, 1]."""
    licence: str = "unknown"

    def __post_init__(self) -> None:
        _check_types(self)
        _require(
            self.unet.latent_channels == self.vae.latent_channels,
            f"{self.name}: the unet works on {self.unet.latent_channels} latent channels, "
            f"the vae makes {self.vae.latent_channels}",
        )
        _require(
            self.unet.context_dim == self.image_encoder.output_dim,
            f"{self.name}: the unet reads a context of width {self.unet.context_dim}, "
            f"the image encoder gives {self.image_encoder.output_dim}",
        )

    @property
    def size_multiple(self) -> int:
        """Width and height must be multiples of this: the VAE's factor times the UNet's."""
        return self.vae.factor * 2 ** (len(self.unet.channels) - 1)


_STABILITY = "Stability AI Community License (https://stability.ai/license)"

SVD = ModelConfig(name="svd", frames=14, guidance=(1.0, 2.5), licence=_STABILITY)
SVD_XT = ModelConfig(name="svd-xt", frames=25, steps=30, guidance=(1.5, 3.0), licence=_STABILITY)
SVD_XT_1_1 = replace(SVD_XT, name="svd-xt-1.1")

NANO = ModelConfig(
    name="nano",
    unet=UNetConfig(
        channels=(64, 96, 128),
        blocks=1,
        attention=(False, False, True),
        heads=(2, 3, 4),
        context_dim=64,
        vector_dim=64,
        norm_groups=8,
    ),
    vae=VAEConfig(channels=(32, 64, 96), norm_groups=8, scale=0.941964),
    image_encoder=ImageEncoderConfig(
        patch_size=32, width=64, layers=2, heads=2, mlp_width=128, output_dim=64
    ),
    frames=8,
    width=128,
    height=128,
    sigma_max=20.0,
    steps=20,
    guidance=(1.0, 1.5),
    licence="Apache-2.0",
)
"""The bundled model."""

TINY = ModelConfig(
    name="tiny",
    unet=UNetConfig(
        channels=(32, 64),
        blocks=1,
        attention=(True, False),
        heads=(2, 4),
        context_dim=32,
        vector_dim=32,
        norm_groups=8,
    ),
    vae=VAEConfig(channels=(32, 32, 32), blocks=1, norm_groups=8),
    image_encoder=ImageEncoderConfig(
        patch_size=32, width=32, layers=1, heads=2, mlp_width=64, output_dim=32
    ),
    frames=4,
    width=64,
    height=32,
    steps=3,
)
"""For tests: a whole model that runs in milliseconds."""

ALIASES: Final = {config.name: config for config in (NANO, SVD, SVD_XT, SVD_XT_1_1)}


def known_config(source: str) -> ModelConfig | None:
    """The configuration of an alias."""
    return ALIASES.get(source.lower().replace("_", "-"))


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Plain JSON values; `config_from_dict` reads them back."""
    return asdict(config)


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Read what `config_to_dict` wrote.

    Raises CheckpointError when a field is unknown or missing, or when the numbers don't fit
    together.
    """

    def tuples(part: Mapping[str, Any]) -> dict[str, Any]:
        return {k: tuple(cast(list[Any], v)) if isinstance(v, list) else v for k, v in part.items()}

    try:
        parts: dict[str, Any] = tuples(values)
        parts["unet"] = UNetConfig(**tuples(parts["unet"]))
        parts["vae"] = VAEConfig(**tuples(parts["vae"]))
        parts["image_encoder"] = ImageEncoderConfig(**tuples(parts["image_encoder"]))
        return ModelConfig(**parts)
    except (KeyError, TypeError, RequestError) as error:
        raise CheckpointError(
            f"the configuration is not one that this version of Kinora knows: {error}"
        ) from error
