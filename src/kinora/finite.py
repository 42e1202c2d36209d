"""What a network gives is checked where it arises: NaN would become a black clip otherwise."""

import torch
from torch import Tensor

from kinora.errors import NotFiniteError
from kinora.weights.read import bad_values

__all__ = ["require_finite"]

WIDER = {
    torch.float16: "bfloat16 or float32",
    torch.bfloat16: "float32",
}
"""Number formats that hold larger values, or the same more exactly."""


def require_finite(
    values: Tensor, stage: str, dtype: torch.dtype, option: str = "--dtype"
) -> Tensor:
    """Return the values unchanged. One pass over them; waits for their device.

    stage: what gave them, for the message, such as "the UNet's output at step 3 of 25".
    dtype: number format of the network that gave them.
    option: the command line's option that chooses it; the argument of `load` has the same name.
    Raises NotFiniteError when one of them is NaN or infinite.
    """
    bad = bad_values(values)
    if bad is not None:
        raise NotFiniteError(f"{stage} holds {bad}: {_advice(dtype, option)}")
    return values


def _advice(dtype: torch.dtype, option: str) -> str:
    name = str(dtype).removeprefix("torch.")
    if dtype in WIDER:
        argument = option.removeprefix("--").replace("-", "_")
        return (
            f"{name} may be too narrow for this model; try {option} {WIDER[dtype]} "
            f"({argument}=… in Python)"
        )
    return (
        f"it was computed in {name} already, so the weights may be damaged (`kinora info --verify` "
        "reads all of them), or a value of the request is extreme"
    )
