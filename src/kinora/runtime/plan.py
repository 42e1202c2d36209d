"""How much memory a clip takes, and what to give up, in time alone, where that is too much."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import torch

from kinora.amounts import say_bytes
from kinora.config import ModelConfig
from kinora.errors import DeviceError
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet
from kinora.runtime.blocks import PIECE, counting_for
from kinora.runtime.decoder import decode
from kinora.runtime.footprint import footprint
from kinora.runtime.quantised import is_quantised, quantised_bytes
from kinora.runtime.streaming import passing
from kinora.runtime.unet import PreparedUNet
from kinora.types import Condition
from kinora.weights.load import precision
from kinora.weights.names import NETWORKS, living_shapes

__all__ = ["Job", "MemoryPlan", "ample", "choose", "predict", "weights"]

BASE: Final = {"cpu": 400 << 20, "cuda": 96 << 20, "mps": 96 << 20}
"""What is held besides: on a CPU by Python, torch's libraries and scratch of its kernels, on a GPU
by its libraries' workspaces."""


class Job(NamedTuple):
    """What takes memory: a model, in a precision, at work on clips of a size."""

    config: ModelConfig
    dtype: torch.dtype
    vae_dtype: torch.dtype
    clips: int
    frames: int
    width: int
    height: int
    guided: bool = True
    """Whether guidance has two halves."""
    device: str = "cpu"
    quantised: bool = False
    """Whether the UNet's linear layers are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """What is done to stay within a budget, and the most that each part of the work will hold."""

    budget: int
    encoding: int = 0
    """Bytes held at most while photos are encoded; on a CPU by the process, on a GPU by torch."""
    sampling: int = 0
    decoding: int = 0
    turns: bool = False
    """Networks hold their weights one after the other, each while it works."""
    apart: bool = False
    """The halves of guidance are computed one after the other."""
    streaming: bool = False
    """The UNet's blocks hold their weights one after the other."""
    keep: int = 0
    """Bytes of results that the decoder needs twice and may keep."""

    @property
    def peak(self) -> int:
        return max(self.encoding, self.sampling, self.decoding)

    @property
    def parts(self) -> str:
        """What each part of the work will hold, in words."""
        return (
            f"encoding {say_bytes(self.encoding)}, sampling {say_bytes(self.sampling)}, "
            f"decoding {say_bytes(self.decoding)}"
        )

    def __str__(self) -> str:
        measures = [
            *(["networks in memory one after the other"] if self.turns else []),
            *(["the UNet streamed block by block"] if self.streaming else []),
            *(["guidance's halves one after the other"] if self.apart else []),
        ]
        return (
            f"{say_bytes(self.peak)} of {say_bytes(self.budget)} ({self.parts}); "
            f"{', '.join(measures) or 'all networks stay in memory'}"
        )


WAYS: Final[tuple[dict[str, bool], ...]] = (
    {},
    {"turns": True},
    {"turns": True, "apart": True},
    {"turns": True, "streaming": True},
    {"turns": True, "streaming": True, "apart": True},
)
"""Ever less memory, ever more time."""


def choose(job: Job, budget: int, *, reread: bool) -> MemoryPlan:
    """The quickest way that stays within the budget.

    budget: bytes. reread: whether weights can be let go of and read again.
    Raises DeviceError, with the numbers, when there is none.
    """
    ways = [way for way in WAYS if reread or not way.get("turns")]
    if job.quantised:  # they can't be read a block at a time: quantising takes longer than a step
        ways = [way for way in ways if not way.get("streaming")]
    if not reread:
        ways.append({"apart": True})
    plans: list[MemoryPlan] = []
    for way in ways:
        plan = predict(job, budget, **way)
        if plan.peak <= budget:
            return plan
        plans.append(plan)
    least = min(plans, key=lambda plan: plan.peak)
    raise DeviceError(
        f"not enough memory: {job.frames} frames of {job.width}x{job.height} with "
        f"{job.config.name} take at least {say_bytes(least.peak)} ({least.parts}), and there are "
        f"{say_bytes(budget)}. "
        "Lower --size or --frames, or use --dtype float16"
    )


def ample(job: Job, budget: int) -> bool:
    """Whether a budget is so large that nothing needs to be counted.

    Counting takes some tenths of a second. The UNet needs about 10 times its widest features of
    all frames (counted by `predict`) and its pieces, the decoder those of all frames and 4 more of
    one.
    """
    unet, vae = job.config.unet, job.config.vae
    pixels = job.clips * job.height * job.width
    rows = pixels // vae.factor**2 * job.frames * (1 + job.guided)
    work = max(
        20 * rows * unet.channels[0] * job.dtype.itemsize + 3 * PIECE[job.device],
        pixels * vae.channels[0] * max(job.vae_dtype.itemsize * (2 * job.frames + 12), 4 * 10),
    )
    return BASE[job.device] + sum(weights(job, name) for name in NETWORKS) + work <= budget


def predict(
    job: Job, budget: int, *, turns: bool = False, apart: bool = False, streaming: bool = False
) -> MemoryPlan:
    """What a way of working would hold at most."""
    base = BASE[job.device]
    unet, vae, image_encoder = (weights(job, name) for name in NETWORKS)
    running = _streamed_weights(job.config, job.dtype) if streaming else unet
    others = base if turns else base + unet + vae + image_encoder
    halves = 2 if job.guided and not apart else 1
    shape = (job.frames, job.width, job.height)
    encoding = others + _encoding(job.config, job.clips, job.width, job.height)
    rows = halves * job.clips
    sampling = others + _sampling(job.config, job.dtype, job.device, rows, *shape)
    decoding = others + _decoding(job.config, job.vae_dtype, *shape) + _pictures(job)
    if turns:
        encoding += max(image_encoder, vae)
        sampling += running
        decoding += vae
    twice = job.frames * job.width * job.height * job.config.vae.channels[0]
    keep = max(0, min(budget - decoding, twice * job.vae_dtype.itemsize))
    return MemoryPlan(
        budget=budget,
        encoding=encoding,
        sampling=sampling,
        decoding=decoding + keep,
        turns=turns,
        apart=apart,
        streaming=streaming,
        keep=keep,
    )


def weights(job: Job, network: str) -> int:
    """Bytes of a network's parameters."""
    return sum(
        quantised_bytes(shape)
        if job.quantised and is_quantised(name, shape)
        else math.prod(shape) * precision(name, job.dtype, job.vae_dtype).itemsize
        for name, shape in living_shapes(job.config).items()
        if name.startswith(f"{network}.")
    )


def _pictures(job: Job) -> int:
    """Bytes of finished frames: in fp32, and as they are quantised."""
    return job.clips * job.frames * job.height * job.width * 3 * (4 + 1)


@lru_cache
@torch.no_grad()
def _encoding(config: ModelConfig, clips: int, width: int, height: int) -> int:
    with torch.device("meta"):
        vae, image_encoder = VideoAutoencoder(config.vae), ImageEncoder(config.image_encoder)
        images = torch.empty(clips, 3, height, width)
        one = images[:1]
        work = [footprint(lambda: vae.encode(one)), footprint(lambda: image_encoder(images))]
    return max(work) + 3 * images.nbytes


@lru_cache
@torch.no_grad()
def _sampling(
    config: ModelConfig,
    dtype: torch.dtype,
    device: str,
    rows: int,
    frames: int,
    width: int,
    height: int,
) -> int:
    """rows: clips at a time, the halves of guidance counted."""
    prepared = _meta_unet(config, dtype)
    sides = (height // config.vae.factor, width // config.vae.factor)
    with torch.device("meta"), counting_for(device):
        latents = torch.empty(rows, frames, config.unet.latent_channels, *sides)
        condition = Condition(
            image=torch.empty(rows, 1, config.unet.latent_channels, *sides),
            context=torch.empty(rows, 1, config.unet.context_dim),
            vector=torch.empty(rows, config.unet.vector_ids),
        )
        work = footprint(lambda: prepared(latents, torch.empty(rows), condition))
    return work + 6 * latents.nbytes  # the sampler's own


@lru_cache
@torch.no_grad()
def _decoding(config: ModelConfig, dtype: torch.dtype, frames: int, width: int, height: int) -> int:
    """Of one clip, the others' turns coming later; from the third frame on, each takes as much."""
    sides = (height // config.vae.factor, width // config.vae.factor)
    with torch.device("meta"):
        vae = VideoAutoencoder(config.vae)
        vae.decoder.to(dtype)

        def work(count: int) -> int:
            latents = torch.empty(1, count, config.vae.latent_channels, *sides)
            return footprint(lambda: decode(vae, latents))

        if frames <= 3:
            return work(frames)
        two, three = work(2), work(3)
    return three + (frames - 3) * (three - two)


@lru_cache
def _streamed_weights(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of the parameters that stay, and of the two largest neighbours among the blocks."""
    prepared = _meta_unet(config, dtype)
    blocks = [sum(p.nbytes for p in passing(block)) for block in prepared.blocks()]
    staying = sum(p.nbytes for p in prepared.parameters()) - sum(blocks)
    return staying + max(map(sum, zip(blocks, [*blocks[1:], blocks[0]], strict=True)))


def _meta_unet(config: ModelConfig, dtype: torch.dtype) -> PreparedUNet:
    with torch.device("meta"):
        unet = VideoUNet(config.unet).to(dtype)
        unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return PreparedUNet(unet)
