"""How much memory a clip takes, and what to give up, in time alone, where that is too much."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

import torch

from kinora.amounts import say_bytes
from kinora.config import ModelConfig
from kinora.errors import DeviceError
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet
from kinora.runtime.decoder import decode
from kinora.runtime.footprint import footprint
from kinora.runtime.quantised import is_quantised, quantised_bytes
from kinora.runtime.sizes import SIZES, TILE_WORK, counting_for
from kinora.runtime.streaming import passing, pinned_bytes
from kinora.runtime.unet import PreparedUNet
from kinora.types import Condition
from kinora.weights.load import precision
from kinora.weights.names import NETWORKS, living_shapes

__all__ = ["NO_MEASURE", "Job", "MemoryPlan", "ample", "choose", "predict", "weights"]

BASE: Final = {"cpu": 400 << 20, "cuda": 96 << 20, "mps": 96 << 20}
"""What is held besides: on a CPU by Python, torch's libraries and scratch of its kernels, on a GPU
by its libraries' workspaces."""


LOST: Final = 16
"""One part in so many of a GPU's budget is not spent on what may be computed twice."""


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
    tile: int = 0
    """Bytes that the decoder computes along time together."""
    host: int = 0
    """Bytes of the host's memory that a GPU's streamed blocks come from, kept for later clips."""

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

    @property
    def _origin(self) -> str:
        return f" from {say_bytes(self.host)} of the host's memory" if self.host else ""

    def __str__(self) -> str:
        measures = [
            *(["networks in memory one after the other"] if self.turns else []),
            *([f"the UNet streamed block by block{self._origin}"] if self.streaming else []),
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

NO_MEASURE: Final[Mapping[str, bool]] = MappingProxyType({})
"""All networks hold their weights all the time, if they fit."""


def choose(
    job: Job,
    budget: int,
    *,
    reread: bool,
    host: int = 1 << 62,
    after: MemoryPlan | None = None,
    least: Mapping[str, bool] = NO_MEASURE,
) -> MemoryPlan:
    """The quickest way that stays within the budget.

    budget: bytes. reread: whether weights can be let go of and read again.
    host: bytes of the host's memory that a GPU's streamed blocks may be kept in.
    after: a plan that turned out to take more than was counted: quicker ways are left out with it.
    least: measures that are taken in any case, of those that are possible.
    Raises DeviceError, with the numbers, when there is none.
    """
    ways = [way for way in WAYS if reread or not way.get("turns")]
    if job.quantised:  # they can't be read a block at a time: quantising takes longer than a step
        ways = [way for way in ways if not way.get("streaming")]
    if not reread:
        ways.append({"apart": True})
    possible = {measure for way in ways for measure in way}
    needed = {name: taken for name, taken in least.items() if name in possible}
    ways = [way for way in ways if needed.items() <= way.items()]
    plans: list[MemoryPlan] = []
    for way in ways[_place(after, ways) :]:
        plan = predict(job, budget, **way)
        if plan.peak <= budget and plan.host <= host:
            return plan
        plans.append(plan)
    if not plans:
        raise DeviceError(
            f"out of memory: {job.frames} frames of {job.width}x{job.height} with "
            f"{job.config.name} took more than the {say_bytes(after.peak if after else 0)} counted "
            "for the way that takes least; lower --size or --frames, or use --dtype float16"
        )
    fitting = [plan for plan in plans if plan.peak <= budget]
    if fitting:
        raise DeviceError(
            f"not enough memory in the host: to stream the UNet of {job.config.name} from it takes "
            f"{say_bytes(fitting[0].host)}, and {say_bytes(host)} are free. Free some, "
            "lower --size or --frames, or give --memory more"
        )
    smallest = min(plans, key=lambda plan: plan.peak)
    raise DeviceError(
        f"not enough memory: {job.frames} frames of {job.width}x{job.height} with "
        f"{job.config.name} take at least {say_bytes(smallest.peak)} ({smallest.parts}), and "
        f"there are {say_bytes(budget)}. "
        "Lower --size or --frames, or use --dtype float16"
    )


def _place(after: MemoryPlan | None, ways: Sequence[dict[str, bool]]) -> int:
    """Of the first way that takes less than a plan."""
    if after is None:
        return 0
    taken = {name for name in ("turns", "apart", "streaming") if getattr(after, name)}
    return next((i + 1 for i, way in enumerate(ways) if set(way) == taken), len(ways))


def ample(job: Job, budget: int) -> bool:
    """Whether a budget is so large that nothing needs to be counted.

    Counting takes some tenths of a second. The UNet needs about 10 times its widest features of
    all frames (counted by `predict`) and its pieces, the decoder those of all frames and 4 more of
    one, and on a GPU its larger tiles.
    """
    unet, vae = job.config.unet, job.config.vae
    pixels = job.clips * job.height * job.width
    rows = pixels // vae.factor**2 * job.frames * (1 + job.guided)
    piece, tiles = SIZES[job.device]
    larger = TILE_WORK * (tiles[0] - tiles[-1])
    decoded = pixels * vae.channels[0]
    work = max(
        20 * rows * unet.channels[0] * job.dtype.itemsize + 3 * piece,
        decoded * max(job.vae_dtype.itemsize * (2 * job.frames + 12), 4 * 10) + larger,
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
    decoding = others + _pictures(job)
    if turns:
        encoding += max(image_encoder, vae)
        sampling += running
        decoding += vae
    tile, work = _tiled(job, budget - decoding)
    decoding += work
    twice = job.frames * job.width * job.height * job.config.vae.channels[0]
    # Where torch's allocator holds to the budget, some is lost between what is in use.
    room = budget - decoding - (budget // LOST if job.device == "cuda" else 0)
    keep = max(0, min(room, twice * job.vae_dtype.itemsize))
    return MemoryPlan(
        budget=budget,
        encoding=encoding,
        sampling=sampling,
        decoding=decoding + keep,
        turns=turns,
        apart=apart,
        streaming=streaming,
        keep=keep,
        tile=tile,
        host=_pinned(job.config, job.dtype) if streaming and job.device == "cuda" else 0,
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
        vae = VideoAutoencoder(config.vae).float()
        image_encoder = ImageEncoder(config.image_encoder).float()
        images = torch.empty(clips, 3, height, width, dtype=torch.float32)
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
        channels, told = config.unet.latent_channels, torch.empty((), dtype=torch.float32)
        latents = told.new_empty(rows, frames, channels, *sides)
        condition = Condition(
            image=told.new_empty(rows, 1, channels, *sides),
            context=told.new_empty(rows, 1, config.unet.context_dim),
            vector=told.new_empty(rows, config.unet.vector_ids),
        )
        work = footprint(lambda: prepared(latents, told.new_empty(rows), condition))
    return work + 6 * latents.nbytes  # the sampler's own


def _tiled(job: Job, room: int) -> tuple[int, int]:
    """The largest of the decoder's tiles with which its work fits, else the smallest; and what the
    work takes then."""
    tiles = SIZES[job.device].tiles
    shape = (job.frames, job.width, job.height)
    if room < math.prod(shape) * job.config.vae.channels[0] * job.vae_dtype.itemsize:
        tiles = tiles[-1:]  # the clip itself takes more
    for tile in tiles:
        work = _decoding(job.config, job.vae_dtype, job.device, tile, *shape)
        if work <= room or tile == tiles[-1]:
            return tile, work
    raise AssertionError("there is a smallest tile")


FEW: Final = 5
"""Frames that the decoder is followed through at most."""


@lru_cache
@torch.no_grad()
def _decoding(
    config: ModelConfig,
    dtype: torch.dtype,
    device: str,
    tile: int,
    frames: int,
    width: int,
    height: int,
) -> int:
    """Of one clip, the others' turns coming later. As soon as a clip is two tiles, each further
    frame takes as much; where that needs more than FEW frames, too much is counted."""
    frame = width * height * config.vae.channels[0] * dtype.itemsize
    smallest = tile == SIZES[device].tiles[-1]
    few = 3 if smallest else max(3, min(FEW, math.ceil(2 * tile / frame) + 1))
    sides = (height // config.vae.factor, width // config.vae.factor)
    with torch.device("meta"), counting_for(device):
        vae = VideoAutoencoder(config.vae)
        vae.decoder.to(dtype)

        def work(count: int) -> int:
            shape = (1, count, config.vae.latent_channels, *sides)
            latents = torch.empty(shape, dtype=torch.float32)
            return footprint(lambda: decode(vae, latents, tile=tile))

        if frames <= few:
            return work(frames)
        before, last = work(few - 1), work(few)
    return last + (frames - few) * (last - before)


@lru_cache
def _streamed_weights(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of the parameters that stay, and of the two largest neighbours among the blocks."""
    prepared = _meta_unet(config, dtype)
    blocks = [sum(p.nbytes for p in passing(block)) for block in prepared.blocks()]
    staying = sum(p.nbytes for p in prepared.parameters()) - sum(blocks)
    return staying + max(map(sum, zip(blocks, [*blocks[1:], blocks[0]], strict=True)))


@lru_cache
def _pinned(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of the host's memory that all streamed blocks are copied to."""
    blocks = _meta_unet(config, dtype).blocks()
    return sum(pinned_bytes(p.nbytes) for block in blocks for p in passing(block))


def _meta_unet(config: ModelConfig, dtype: torch.dtype) -> PreparedUNet:
    with torch.device("meta"):
        unet = VideoUNet(config.unet).to(dtype)
        unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return PreparedUNet(unet)
