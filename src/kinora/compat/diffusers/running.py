"""What a running call shows of itself, to its callbacks and to overridden methods."""

import threading
from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from kinora.compat.diffusers.call import Call
from kinora.compat.diffusers.surface import Levels
from kinora.config import ModelConfig
from kinora.diffusion import karras
from kinora.errors import RequestError
from kinora.types import per_clip

__all__ = ["NoBar", "Running"]


class Running:
    """The call that this thread is in; several threads may share a pipeline."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self._local = threading.local()

    @contextmanager
    def call(self, call: Call, device: torch.device) -> Generator[None, None, None]:
        """Within it, `call` is the one that runs."""
        before = vars(self._local).copy()
        self._local.levels = _levels(call.sigmas, device)
        self._local.scale = call.scale(1).to(device)
        try:
            yield
        finally:
            vars(self._local).clear()
            vars(self._local).update(before)

    @property
    def levels(self) -> Levels:
        """Of 25 steps, as many as a call takes by itself, when none runs."""
        config = self.config
        levels = karras(25, config.sigma_min, config.sigma_max, config.rho)
        return getattr(self._local, "levels", None) or _levels(levels, torch.device("cpu"))

    @property
    def scale(self) -> Float[Tensor, "1 t"]:
        """Of each frame. Raises RequestError when no call runs."""
        if not hasattr(self._local, "scale"):
            raise RequestError("guidance_scale: known only while a call runs")
        return self._local.scale


class NoBar:
    """A progress bar that shows nothing."""

    def __enter__(self) -> "NoBar":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, n: int = 1) -> None: ...


def _levels(sigmas: list[float], device: torch.device) -> Levels:
    levels = per_clip(sigmas)
    timesteps = levels[:-1].log() / 4
    return Levels(levels.to(device), timesteps, (1 + max(sigmas) ** 2) ** 0.5)
