"""How much memory a computation takes, found out without computing it."""

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Footprint", "footprint"]


class Footprint(TorchDispatchMode):
    """While it is active, follows how many bytes of new tensors exist at a time.

    On the meta device tensors have shapes but no memory, so that a network of any size can be
    followed in a moment. What kernels use inside themselves is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return made

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self.known:
            return
        self.known.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, key, storage.nbytes())

    def _leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def footprint(compute: Callable[[], object]) -> int:
    """Bytes of new tensors that exist at most at a time while `compute` runs."""
    with Footprint() as seen:
        compute()
    return seen.peak
