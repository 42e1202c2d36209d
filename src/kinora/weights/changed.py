"""A checkpoint of which some tensors were replaced after it was loaded."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kinora.config import ModelConfig
from kinora.errors import CheckpointError
from kinora.weights.checkpoint import Checkpoint
from kinora.weights.read import bad_values

__all__ = ["Changed"]


class Changed:
    """Tensors by our names: the replaced ones from memory, all others from the checkpoint.

    So networks can release changed weights and read them again like any others.
    Raises CheckpointError where a tensor has no place in the model or another shape.
    """

    def __init__(self, base: "Checkpoint | Changed", tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            expected = base.tensor(name).shape
            if tensor.shape != expected:
                raise CheckpointError(
                    f"tensor {name} has the shape {list(tensor.shape)} instead of {list(expected)}"
                )
        self.base = base
        self.path = base.path
        self.config: ModelConfig = base.config
        self.tensors = {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}

    def dtype(self, name: str) -> torch.dtype:
        return self.tensors[name].dtype if name in self.tensors else self.base.dtype(name)

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name] if name in self.tensors else self.base.tensor(name)

    def sound_tensor(self, name: str) -> Tensor:
        """The same; raises CheckpointError when it holds NaN or infinity."""
        if name not in self.tensors:
            return self.base.sound_tensor(name)
        bad = bad_values(self.tensors[name])
        if bad is not None:
            raise CheckpointError(f"tensor {name} holds {bad}: load other weights")
        return self.tensors[name]

    def forget(self, name: str) -> None:
        if name not in self.tensors:
            self.base.forget(name)
