"""Which networks hold their weights: all of them, or each only while it works."""

import atexit
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Event, Thread
from typing import cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from kinora.errors import DeviceError
from kinora.runtime.memory import free_memory, limited, release, trim
from kinora.runtime.packed import bytes_of, pack_when_used, unpack
from kinora.runtime.plan import NO_MEASURE, Job, MemoryPlan, ample, choose
from kinora.runtime.streaming import Pinned, streamed
from kinora.runtime.unet import PreparedUNet
from kinora.weights import Networks
from kinora.weights.load import Source

__all__ = ["Residency"]

NAMES = ("vae", "image_encoder", "unet")
"""In the order in which they work."""


LOOSE = 512 << 20
"""Bytes that packing may free before memory is trimmed, which takes some hundredths of a second."""


class Residency:
    """The networks of a model, whose weights can be let go of and read again.

    Networks that come from no file keep what they have.
    """

    def __init__(
        self,
        networks: Networks,
        unet: nn.Module,
        *,
        limit: int | None = None,
        compiled: bool = False,
    ) -> None:
        """unet: the one that runs; of the very parameters of the networks' own.

        limit: bytes that may be held; what is free when left out.
        compiled: whether the UNet's blocks are; then they hold on to the tensors that they were
            compiled for. Else, on a CPU, weights are packed for its kernels as they are used.
        """
        self.networks = networks
        self.unet = unet
        self.source = networks.source
        self.limit = limit
        self.compiled = compiled
        self.turns = False
        """Whether networks hold weights only within `hold`."""
        self.streaming = False
        """Whether the UNet's blocks do so only while each of them works."""
        self.least: Mapping[str, bool] = NO_MEASURE
        """Measures to save memory that are taken even where there is plenty, unless on a CPU, whose
        memory is where weights come from."""
        self.plan: MemoryPlan | None = None
        """What the latest job was planned to hold; None where there was plenty."""
        self.loading: dict[str, Future[None]] = {}
        """What a thread is still loading."""
        self.holders: Counter[str] = Counter()
        """How many are within `hold` of each network."""
        self.plans: dict[Job, MemoryPlan] = {}
        """The latest of each job for which memory was counted or ran out."""
        self.outgrown: dict[Job, MemoryPlan] = {}
        """Plans that took more memory than was counted."""
        self.others = 0
        """Bytes that others held through torch on the GPU when a plan was made."""
        self.pinned = Pinned()
        """What the UNet's blocks are streamed from to a GPU; kept for later clips."""
        self.packing: list[RemovableHandle] = []
        self._pack()

    @property
    def device(self) -> torch.device:
        weight = self.networks.unet.conv_in.weight
        return self.source.device if weight.is_meta and self.source else weight.device

    @property
    def total(self) -> int:
        """Bytes of all weights."""
        return sum(p.nbytes for p in self._parameters())

    @property
    def held(self) -> int:
        """Bytes of the weights that are held now."""
        return sum(map(bytes_of, self._parameters()))

    @property
    def budget(self) -> int:
        """Bytes that may be held."""
        return self.held + free_memory(self.device) if self.limit is None else self.limit

    def limited(self) -> AbstractContextManager[None]:
        """Within it, torch holds no more than the limit on a GPU, besides what others held."""
        return limited(self.device, None if self.limit is None else self.limit + self.others)

    def arrange(self, job: Job, *, again: bool = False) -> MemoryPlan | None:
        """Plan how a job stays within the budget, and follow that; None where there is plenty.

        again: memory ran out under the latest plan; one that takes less is made, now and for every
            later job of the kind.
        Raises DeviceError when there is too little, whatever is done.
        """
        if again:
            self.outgrown[job] = self.plans.pop(job, None) or MemoryPlan(budget=self.budget)
            release(self.device)
        if self.device.type == "cuda":
            self.others = max(0, torch.cuda.memory_allocated(self.device) - self.held)
        budget, after = self.budget, self.outgrown.get(job)
        least = NO_MEASURE if self.device.type == "cpu" else self.least
        if after is None and self.limit is None and not least and ample(job, budget):
            self.plan = None
            self.follow(turns=False, streaming=False)
            return None
        host = free_memory(torch.device("cpu")) + self.pinned.held
        reread = self.source is not None and not self.compiled
        plan = choose(job, budget, reread=reread, host=host, after=after, least=least)
        self.plan = self.plans[job] = plan
        self.follow(turns=plan.turns, streaming=plan.streaming)
        return plan

    def follow(self, *, turns: bool, streaming: bool) -> None:
        """Change how weights are held; what is too much is let go of at once."""
        if self.source is None:
            return
        self.turns, self.streaming = turns, streaming
        if not streaming and not self.holders["unet"]:
            self.pinned.clear()
        if turns:
            for name in NAMES:
                self._wait(name)
                if not self.holders[name]:
                    self.source.clear(name, self._module(name))

    def fill(self, *, wait: bool = True) -> None:
        """Have all networks hold their weights from now on, those that work first, first.

        wait: until all do; otherwise each is waited for, and damage found, when it is to work.
        Raises CheckpointError when weights turn out to be damaged.
        """
        self.follow(turns=False, streaming=False)
        source = self.source
        if source is None:
            return
        self.loading = {name: Future[None]() for name in NAMES}
        stop = Event()
        told = (source, self.networks, dict(self.loading), stop)
        thread = Thread(target=_load, args=told, daemon=True)
        thread.start()
        # A thread that the end of Python finds within torch brings the whole process down.
        atexit.register(_end, thread, stop)
        for name in NAMES if wait else ():
            self._wait(name)

    def settle(self) -> None:
        """The same for good, as they were stored: from now on somebody else moves them."""
        self.fill()
        for hook in self.packing:
            hook.remove()
        for parameter in self._parameters():
            unpack(parameter)
        self.source = None

    def move(self, source: Source) -> None:
        """Have weights come from another source: of another device, precision or values.

        All are let go of; they are read again when they are filled or held.
        Raises DeviceError while a network works, CheckpointError when weights turn out to be
        damaged.
        """
        if any(self.holders.values()):
            raise DeviceError(
                "the networks are at work on a clip: move or change them when it is finished"
            )
        for name in NAMES:
            self._wait(name)
            source.clear(name, self._module(name))
        self.source = source
        if isinstance(self.unet, PreparedUNet):
            self.unet.forget()
        self._pack()

    def _pack(self) -> None:
        """On a CPU, have weights packed as they are used; elsewhere and if compiled they aren't."""
        source = self.source
        if self.packing or self.compiled or source is None or source.device.type != "cpu":
            return
        names = {p: f"unet.{name}" for name, p in self.networks.unet.named_parameters()}
        self.packing = pack_when_used(self.unet, _Tidying(source, names))

    @contextmanager
    def hold(self, name: str) -> Generator[None, None, None]:
        """Within it, a network ("unet", "vae", "image_encoder") can be called.

        Raises CheckpointError when its weights turn out to be damaged, DeviceError for the UNet
        when its blocks are streamed for another clip already.
        """
        source = self.source
        if source is None:
            yield
            return
        self._wait(name)
        with ExitStack() as stack:
            stack.callback(self._leave, name, source)
            self.holders[name] += 1
            if name == "unet" and self.streaming and isinstance(self.unet, PreparedUNet):
                if self.holders[name] > 1:
                    raise DeviceError(
                        "the UNet is streamed for another clip: finish or close that one first"
                    )
                stack.enter_context(streamed(self.unet, self.networks.unet, source, self.pinned))
            else:
                source.fill(name, self._module(name))
            yield

    @contextmanager
    def borrow(self, name: str) -> Generator[None, None, None]:
        """The same for a single call, which shares a UNet that is streamed for a clip.

        Raises CheckpointError.
        """
        if name == "unet" and self.streaming and self.holders[name]:
            yield
            return
        with self.hold(name):
            yield

    def _leave(self, name: str, source: Source) -> None:
        self.holders[name] -= 1
        if self.turns and not self.holders[name]:
            source.clear(name, self._module(name))
        if source.device.type == "cpu":
            trim()  # the next network works with other sizes

    def _wait(self, name: str) -> None:
        if name in self.loading:
            self.loading.pop(name).result()

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (p for name in NAMES for p in self._module(name).parameters())

    def _module(self, name: str) -> nn.Module:
        return cast(nn.Module, getattr(self.networks, name))


class _Tidying:
    """Lets go of what packed parameters have left behind. (It knows no module, whose hooks know it:
    a circle would keep all weights until Python looks for circles.)"""

    def __init__(self, source: Source, names: dict[nn.Parameter, str]) -> None:
        self.source = source
        self.names = names
        self.loose = 0
        """Bytes freed since memory was last trimmed."""

    def __call__(self, parameter: nn.Parameter) -> None:
        self.source.checkpoint.forget(self.names[parameter])  # the mapped file's pages
        self.loose += parameter.nbytes
        if self.loose > LOOSE:
            self.loose = 0
            trim()


def _end(thread: Thread, stop: Event) -> None:
    stop.set()
    thread.join()


def _load(source: Source, networks: Networks, done: dict[str, Future[None]], stop: Event) -> None:
    for name, future in done.items():
        try:
            source.fill(name, getattr(networks, name), stop)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)
