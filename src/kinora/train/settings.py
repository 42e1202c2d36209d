"""What a training run is told: frozen data, stored with every checkpoint.

A run that is resumed must be told the same again, save what is marked as free to change because
no weight depends on it, or because only the remaining steps do.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from kinora.config import NANO, ModelConfig
from kinora.errors import RequestError
from kinora.synthetic import SceneConfig

__all__ = ["UNetTraining", "VAETraining"]

Optimizer = Literal["adamw", "muon"]

FREE: dict[str, Any] = {"free": True}
MAX_RATE = 1e30
"""Times the size of any layer, still a number that fp32 holds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VAETraining:
    """How the autoencoder is trained. Raises RequestError when a value can't be meant."""

    model: ModelConfig = NANO
    seed: int = 0
    steps: int = field(default=2000, metadata=FREE)
    """Steps over which the learning rate decays; the run is finished after them."""
    size: int = 64
    """Side of the square crops that a step sees."""
    clips: int = 4
    """Clips of a step."""
    frames: int = 4
    """Frames of a clip. With 1 the decoder that is trained is frame-wise, and learns sooner; a run
    on clips then starts from it (`init`)."""
    init: str | None = None
    """Another run's folder, whose autoencoder to start from: perhaps a frame-wise one, which
    learns more in the same time from single frames."""
    pool: int = 1024
    """Clips that are rendered once, before training. Crops, flips and swapped colours make each of
    them new at every use."""
    pool_size: int = 96
    """Side of the rendered frames."""
    scenes: SceneConfig = field(default_factory=SceneConfig)
    """What the clips show; size and frames are set by the fields above."""
    gradient_weight: float = 1.0
    """Weight of the loss on differences between neighbouring pixels."""
    kl_weight: float = 1e-4
    """Weight of the KL divergence, in nats a latent value: enough to keep latents near unit size
    and a little noisy, far too little to blur."""
    coarse_weight: float = 0.25
    """Weight of the loss on what latents of half the size decode to; 0 leaves it out."""
    optimizer: Optimizer = "adamw"
    """Muon moves the weights of hidden layers; from random weights it took fewer steps here, at
    about five times AdamW's learning rate."""
    learning_rate: float = 5e-4
    floor: float = 0.02
    """Learning rate at the end, as a share of the highest."""
    warm_up: int = 100
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    """Largest norm of all gradients together."""
    average: float = 0.998
    """Decay of the moving average of the weights."""
    photos: tuple[str, ...] = field(default=(), metadata=FREE)
    """Pictures to measure on, besides made-up ones; nothing is learnt from them."""
    report_every: int = field(default=20, metadata=FREE)
    save_every: int = field(default=200, metadata=FREE)
    device: str | None = field(default=None, metadata=FREE)
    """Where to compute; the best device that there is when left out."""
    workers: int = field(default=2, metadata=FREE)
    """Processes that render on the CPU; a GPU renders by itself."""
    compile: bool = field(default=False, metadata=FREE)

    @property
    def trained(self) -> ModelConfig:
        """The model whose autoencoder is trained, frame-wise where no clip has a second frame."""
        return replace(self.model, vae=replace(self.model.vae, temporal_decoder=self.frames > 1))

    def __post_init__(self) -> None:
        _positive(self, "steps", "clips", "frames", "report_every", "save_every")
        _multiple("size", self.size, self.model.vae.factor)
        if self.pool_size < self.size:
            raise RequestError(f"pool_size {self.pool_size}: must be at least size {self.size}")
        if self.pool < self.clips * self.frames:
            raise RequestError(
                f"pool {self.pool}: must be at least the {self.clips * self.frames} pictures of a "
                "step"
            )
        _rates(self.learning_rate, self.average)
        _known(self.optimizer)


@dataclass(frozen=True, kw_only=True, slots=True)
class UNetTraining:
    """How UNet and image encoder are trained. Raises RequestError when a value can't be meant."""

    model: ModelConfig = NANO
    """The VAE in it is replaced by the trained one; frames and size by the fields below."""
    seed: int = 0
    steps: int = field(default=4000, metadata=FREE)
    width: int = 64
    height: int = 64
    frames: int = 8
    clips: int = 4096
    """Clips that are rendered and encoded once, before training."""
    scenes: SceneConfig = field(default_factory=SceneConfig)
    """What the clips show; size and frames are set by the fields above."""
    aug_mean: float = -3.0
    aug_std: float = 0.5
    """ln of the noise added to the photo is normal with these; one draw a clip."""
    batch: int = 16
    crop: int | None = None
    """Side in pixels of the random squares of the encoded clips that a step sees; all of them when
    left out. A square moves as the whole does, costs less, and makes few clips many."""
    noise_mean: float = -0.2
    noise_std: float = 1.4
    """ln σ is normal with these. The published stages at 576×1024 used 1.0 and 1.6; smaller frames
    want less noise."""
    drop_image: float = 0.1
    drop_context: float = 0.1
    """Shares of clips that are trained without the photo's latent, without its embedding."""
    flow_weight: float = 0.0
    """Weight of the loss on the flow that a linear layer tells from what the UNet's middle gives:
    made-up clips know theirs, and a UNet that has to tell it learns sooner to find it. The layer
    is no part of the model. Squared distance in latents."""
    train_image_encoder: bool = True
    init: str | None = None
    """Another run to start from (its averaged weights, with a fresh optimiser), perhaps one at a
    smaller size; its VAE is taken where this run has none."""
    optimizer: Optimizer = "adamw"
    """Muon moves the weights of hidden layers; from random weights it took fewer steps here, at
    about five times AdamW's learning rate."""
    learning_rate: float = 5e-4
    floor: float = 0.02
    warm_up: int = 100
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    average: float = 0.998
    photos: tuple[str, ...] = field(default=(), metadata=FREE)
    """Pictures that sample clips are made of, besides made-up ones."""
    sample_steps: int = field(default=20, metadata=FREE)
    report_every: int = field(default=20, metadata=FREE)
    save_every: int = field(default=200, metadata=FREE)
    sample_every: int = field(default=400, metadata=FREE)
    device: str | None = field(default=None, metadata=FREE)
    """Where to compute; the best device that there is when left out."""
    workers: int = field(default=2, metadata=FREE)
    """Processes that render on the CPU; a GPU renders by itself."""
    compile: bool = field(default=False, metadata=FREE)

    def __post_init__(self) -> None:
        _positive(self, "steps", "frames", "batch", "report_every", "save_every", "sample_every")
        _multiple("width", self.width, self.model.size_multiple)
        _multiple("height", self.height, self.model.size_multiple)
        if self.crop is not None:
            _multiple("crop", self.crop, self.model.size_multiple)
            if self.crop > min(self.width, self.height):
                raise RequestError(
                    f"crop {self.crop}: must be at most the clips' {self.width}×{self.height}"
                )
        _rates(self.learning_rate, self.average)
        _known(self.optimizer)
        if self.clips < self.batch:
            raise RequestError(f"clips {self.clips}: must be at least one batch of {self.batch}")
        for name in ("drop_image", "drop_context"):
            if not 0 <= getattr(self, name) <= 1:
                raise RequestError(f"{name} {getattr(self, name)}: must be from 0 to 1")


def _positive(settings: VAETraining | UNetTraining, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value < 1:
            raise RequestError(f"{name} {value}: must be at least 1")


def _multiple(name: str, value: int, of: int) -> None:
    if value < of or value % of:
        raise RequestError(f"{name} {value}: must be a multiple of {of} for this model")


def _rates(learning_rate: float, average: float) -> None:
    if not 0 < learning_rate <= MAX_RATE:
        raise RequestError(
            f"learning_rate {learning_rate}: must be above 0, and at most {MAX_RATE}"
        )
    if not 0 <= average < 1:
        raise RequestError(f"average {average}: must be from 0 to below 1")


def _known(optimizer: str) -> None:
    if optimizer not in get_args(Optimizer):
        raise RequestError(
            f"optimizer {optimizer}: must be one of {', '.join(get_args(Optimizer))}"
        )
