"""How much memory a computation takes, found out without computing it."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["footprint"]


def footprint(compute: Callable[[], object]) -> int:
    """Bytes of new tensors that exist at most at a time while `compute` runs.

    On the meta device tensors have shapes but no values, so that a network of any size is followed
    in a moment. What kernels use inside themselves is not seen.
    """
    with _FlashAttention(), _Footprint() as seen:
        compute()
    return seen.peak


class _Footprint(TorchDispatchMode):
    """Follows, while it is active, how many bytes of new storage exist."""

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
        given = {id(storage) for storage in _storages(args)}
        for storage in _storages(made):
            if id(storage) not in given | self.known:
                self._follow(storage)
        return made

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


class _FlashAttention(TorchFunctionMode):
    """On the meta device attention would be told as the product of matrices that no device makes:
    what is used everywhere needs room for its result alone."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0])
        return func(*args, **(kwargs or {}))


def _storages(values: object) -> Iterator[torch.UntypedStorage]:
    """Of a tensor, or of those in lists and tuples of whatever depth."""
    if isinstance(values, Tensor):
        yield values.untyped_storage()
    elif isinstance(values, list | tuple):
        for value in cast(Iterable[object], values):
            yield from _storages(value)
