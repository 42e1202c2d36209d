"""Tables between foreign tensor names and ours: read both ways, total, strict.

A table is a list of rules, composed the way the network is. One rule joins one foreign tensor to
one of ours, or to three where the foreign format stores three matrices as one. A key that two
rules match can't enter a table; a key that none matches raises when it is looked up.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from kinora.arguments import expect
from kinora.errors import CheckpointError

__all__ = [
    "IDENTITY",
    "SPLIT3",
    "SQUEEZE",
    "SQUEEZE2",
    "TRANSPOSE",
    "KeyMap",
    "Op",
    "Rule",
    "as_tensors",
    "layers",
    "own_rules",
    "weights",
]


def as_tensors(name: str, value: object) -> Mapping[str, Tensor]:
    """Tensors by their names. Raises RequestError for anything else."""
    expect(name, value, Mapping, "a mapping of names to tensors")
    for key, tensor in cast("Mapping[Any, Any]", value).items():
        expect(f"{name}: key", key, str, "text")
        expect(f"{name}[{key!r}]", tensor, Tensor, "a tensor")
    return cast("Mapping[str, Tensor]", value)


class Op(NamedTuple):
    """How a foreign tensor becomes ours, and back; both directions only move values."""

    name: str
    to_ours: Callable[[Tensor], tuple[Tensor, ...]]
    to_theirs: Callable[[tuple[Tensor, ...]], Tensor]


def _alone(ours: tuple[Tensor, ...]) -> Tensor:
    return ours[0]


def _identity(theirs: Tensor) -> tuple[Tensor, ...]:
    return (theirs,)


def _transpose(theirs: Tensor) -> tuple[Tensor, ...]:
    return (theirs.T,)


def _transpose_back(ours: tuple[Tensor, ...]) -> Tensor:
    return ours[0].T


def _split3(theirs: Tensor) -> tuple[Tensor, ...]:
    if len(theirs) % 3:
        raise CheckpointError(f"a shape of {list(theirs.shape)} can't be three equal parts")
    q, k, v = theirs.reshape(3, -1, *theirs.shape[1:])
    return q, k, v


def _join3(ours: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(ours)


def _squeeze(axes: int) -> Op:
    def to_ours(theirs: Tensor) -> tuple[Tensor, ...]:
        if theirs.shape[theirs.ndim - axes :] != (1,) * axes:
            raise CheckpointError(f"a shape of {list(theirs.shape)} must end in {axes} × 1")
        return (theirs.reshape(theirs.shape[: theirs.ndim - axes]),)

    def to_theirs(ours: tuple[Tensor, ...]) -> Tensor:
        return ours[0].reshape(*ours[0].shape, *(1,) * axes)

    return Op(f"squeeze{axes}", to_ours, to_theirs)


IDENTITY = Op("identity", _identity, _alone)
SQUEEZE = _squeeze(1)
"""A convolution over time, [o, i, 3, 1, 1], is ours over frames × pixels, [o, i, 3, 1]."""
SQUEEZE2 = _squeeze(2)
"""A 1 × 1 convolution is a linear layer."""
TRANSPOSE = Op("transpose", _transpose, _transpose_back)
SPLIT3 = Op("split3", _split3, _join3)
"""q, k and v in one tensor, one below the other."""


class Rule(NamedTuple):
    """One foreign tensor and what it is to us."""

    theirs: str
    ours: tuple[str, ...]
    op: Op = IDENTITY


def weights(
    theirs: str, ours: str, names: Mapping[str, str], op: Op = IDENTITY, part: str = "weight"
) -> Iterator[Rule]:
    """Rules for one parameter of several layers.

    theirs, ours: prefixes, each ending in a dot or empty.
    names: their name of a layer → our name of it.
    """
    for their_name, our_name in names.items():
        yield Rule(f"{theirs}{their_name}.{part}", (f"{ours}{our_name}.{part}",), op)


def layers(theirs: str, ours: str, names: Mapping[str, str], op: Op = IDENTITY) -> Iterator[Rule]:
    """Rules for the weight and the bias of several layers; `op` is the weights'."""
    yield from weights(theirs, ours, names, op)
    yield from weights(theirs, ours, names, part="bias")


def own_rules(names: Iterable[str]) -> Iterator[Rule]:
    """Rules of our own format: every name is its own."""
    return (Rule(name, (name,)) for name in names)


class KeyMap:
    """A table of rules that joins each foreign key to our names, one to one."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules: dict[str, Rule] = {}
        """By foreign key."""
        self._by_ours: dict[str, Rule] = {}
        for rule in rules:
            if rule.theirs in self.rules:
                raise ValueError(f"two rules match the foreign key {rule.theirs}")
            self.rules[rule.theirs] = rule
            for name in rule.ours:
                if name in self._by_ours:
                    raise ValueError(f"two rules give our name {name}")
                self._by_ours[name] = rule

    @property
    def names(self) -> Iterable[str]:
        """All of our names that the foreign format can hold."""
        return self._by_ours.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._by_ours

    def source(self, name: str) -> Rule:
        """The rule that gives one of our names. Raises CheckpointError when none does."""
        if name not in self._by_ours:
            raise CheckpointError(f"no rule gives the tensor {name}")
        return self._by_ours[name]

    def rule(self, theirs: str) -> Rule:
        """The rule of a foreign key. Raises CheckpointError when none matches."""
        if theirs not in self.rules:
            raise CheckpointError(f"no rule matches the key {theirs}")
        return self.rules[theirs]

    def to_ours(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename and reshape foreign tensors; values are never copied where a view will do.

        Raises CheckpointError for a key that no rule matches.
        """
        ours: dict[str, Tensor] = {}
        for key, tensor in as_tensors("tensors", tensors).items():
            rule = self.rule(key)
            ours.update(zip(rule.ours, rule.op.to_ours(tensor), strict=True))
        return ours

    def to_theirs(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The way back. A rule of which a part is missing raises CheckpointError."""
        rules = {rule.theirs: rule for rule in map(self.source, as_tensors("tensors", tensors))}
        theirs: dict[str, Tensor] = {}
        for key, rule in rules.items():
            missing = [name for name in rule.ours if name not in tensors]
            if missing:
                raise CheckpointError(f"{key} can't be made: {missing[0]} is missing")
            theirs[key] = rule.op.to_theirs(tuple(tensors[name] for name in rule.ours))
        return theirs

    def theirs_shape(self, theirs: str, ours: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The shape that a foreign tensor must have, from the shapes of ours."""
        rule = self.rule(theirs)
        parts = tuple(torch.empty(ours[name], device="meta") for name in rule.ours)
        return tuple(rule.op.to_theirs(parts).shape)
