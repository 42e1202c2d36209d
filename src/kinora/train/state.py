"""All that changes while training: weights, their average, the optimiser, the step."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kinora.errors import CheckpointError
from kinora.train.average import Average

__all__ = ["State", "make_state"]

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(kw_only=True)
class State:
    """Explicit training state; `tensors` and `load` are what a checkpoint keeps of it."""

    network: nn.Module
    average: Average
    optimizer: torch.optim.AdamW
    step: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name: `weights.`, `average.`, `optimizer.exp_avg.`, …"""
        named = dict(self.network.named_parameters())
        out = {f"weights.{name}": p.detach() for name, p in named.items()}
        out |= {f"average.{name}": tensor for name, tensor in self.average.tensors.items()}
        for name, parameter in named.items():
            moments = self.optimizer.state.get(parameter, {})
            out |= {f"optimizer.{m}.{name}": moments[m] for m in MOMENTS if m in moments}
        return out

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Go on where `tensors` left off. Raises CheckpointError when they are another network's.

        Strides stay the network's own: sums taken in another order would differ in the last bit.
        """
        for name, parameter in self.network.named_parameters():
            self._copy(parameter, tensors, f"weights.{name}")
            self._copy(self.average.tensors[name], tensors, f"average.{name}")
            if step > 0 and parameter.requires_grad:
                moments = {m: torch.zeros_like(parameter) for m in MOMENTS}
                for moment, tensor in moments.items():
                    self._copy(tensor, tensors, f"optimizer.{moment}.{name}")
                count = torch.tensor(float(step), device=parameter.device)
                self.optimizer.state[parameter] = {"step": count, **moments}
        self.step = step

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
    network: nn.Module, *, average: float, weight_decay: float, device: torch.device
) -> State:
    """A fresh start. Only matrices and kernels decay, neither biases nor norms.

    Convolutions go to the channels-last memory format, in which they are quicker.
    """
    network.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    return State(network=network, average=Average(network, average), optimizer=optimizer)
