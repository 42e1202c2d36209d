"""All that changes while training: weights, their average, the optimiser, the step."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kinora.errors import CheckpointError
from kinora.train.average import Average
from kinora.train.muon import Muon
from kinora.train.settings import UNetTraining, VAETraining

__all__ = ["State", "make_state"]

MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    Muon: ("momentum",),
}
"""What an optimiser keeps of each parameter."""
OUTER = re.compile(r"(^|\.)(conv_in|conv_out|time_conv|\w*quant_conv|patch_embedding|projection)\.")
"""First and last layers, which Muon leaves to AdamW."""


@dataclass(kw_only=True)
class State:
    """Explicit training state; `tensors` and `load` are what a checkpoint keeps of it."""

    network: nn.Module
    average: Average
    optimizers: Sequence[torch.optim.Optimizer]
    """Each has some of the parameters."""
    step: int = 0

    def groups(self) -> list[dict[str, Any]]:
        """The parameter groups of all optimisers."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name: `weights.`, `average.`, `optimizer.exp_avg.`, …"""
        names = self._names()
        out = {f"weights.{name}": p.detach() for p, name in names.items()}
        out |= {f"average.{name}": tensor for name, tensor in self.average.tensors.items()}
        for optimizer, parameter in self._owned():
            kept = optimizer.state.get(parameter, {})
            moments = (m for m in MOMENTS[type(optimizer)] if m in kept)
            out |= {f"optimizer.{m}.{names[parameter]}": kept[m] for m in moments}
        return out

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on where `tensors` left off. Raises CheckpointError when they are another network's.

        Strides stay the network's own: sums taken in another order would differ in the last bit.
        """
        names = self._names()
        for parameter, name in names.items():
            self._copy(parameter, tensors, f"weights.{name}")
            self._copy(self.average.tensors[name], tensors, f"average.{name}")
        for optimizer, parameter in self._owned() if step > 0 else ():
            moments = {m: torch.zeros_like(parameter) for m in MOMENTS[type(optimizer)]}
            for moment, tensor in moments.items():
                self._copy(tensor, tensors, f"optimizer.{moment}.{names[parameter]}")
            count = torch.tensor(float(step), device=parameter.device)
            optimizer.state[parameter] = {"step": count, **moments}
        self.step = step

    def _names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.network.named_parameters()}

    def _owned(self) -> Iterator[tuple[torch.optim.Optimizer, nn.Parameter]]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    yield optimizer, parameter

    @torch.no_grad()
    def _copy(self, into: Tensor, tensors: Mapping[str, Tensor], name: str) -> None:
        stored = tensors.get(name)
        if stored is None or stored.shape != into.shape:
            found = "missing" if stored is None else f"of shape {tuple(stored.shape)}"
            raise CheckpointError(
                f"the checkpoint is of another network: {name} is {found}, "
                f"must be of shape {tuple(into.shape)}"
            )
        into.copy_(stored)


def make_state(
    network: nn.Module, settings: VAETraining | UNetTraining, device: torch.device
) -> State:
    """A fresh start. Only matrices and kernels decay, neither biases nor norms.

    With Muon, the weights of hidden layers are its own, and AdamW's are the rest.
    Convolutions go to the channels-last memory format, in which they are quicker.
    """
    network.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    hidden = _hidden(network) if settings.optimizer == "muon" else []
    others = set(network.parameters()) - set(hidden)
    rest = [p for p in network.parameters() if p.requires_grad and p in others]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    muon = [Muon(hidden, weight_decay=settings.weight_decay)] if hidden else []
    average = Average(network, settings.average)
    return State(network=network, average=average, optimizers=[adamw, *muon])


def _hidden(network: nn.Module) -> list[nn.Parameter]:
    """The weights of all linear layers and convolutions but the outermost."""

    def inner(name: str) -> bool:
        module, _, kind = name.rpartition(".")
        layer = isinstance(network.get_submodule(module), nn.Linear | nn.Conv2d)
        return layer and kind == "weight" and not OUTER.search(name)

    return [p for name, p in network.named_parameters() if inner(name) and p.requires_grad]
