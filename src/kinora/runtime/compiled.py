"""The UNet's blocks compiled by torch: what lies between products and convolutions is fused.

Each block is compiled by itself, and once for all blocks of its shapes, so that the first step
waits for a dozen pieces rather than for a whole network. What was compiled is kept on disk for
the next process.
"""

import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from kinora.errors import DeviceError
from kinora.runtime.attention import register_attention
from kinora.runtime.blocks import space_time_res_block, space_time_transformer
from kinora.runtime.unet import PreparedUNet

__all__ = ["compile_blocks"]

VARIANTS = 256
"""Blocks of different shapes, in clips of different sizes, that one process may meet."""


def compile_blocks(prepared: PreparedUNet, device: torch.device) -> None:
    """Have the blocks compiled as they are first called at each size: minutes, once.

    Raises DeviceError where torch has nothing to compile with.
    """
    _check_compiler(device)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kinora" / "compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    config = torch._dynamo.config  # pyright: ignore[reportPrivateUsage]
    config.recompile_limit = max(config.recompile_limit, VARIANTS)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4 * VARIANTS)
    register_attention()
    res_block, transformer = _compiled(space_time_res_block), _compiled(space_time_transformer)
    for block in prepared.resnets:
        block.use(res_block)
    for block in prepared.transformers:
        block.use(transformer)


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # Sizes are constants: kernels for any size would be slower.
    fast = torch.compile(function, dynamic=False)
    failure = cast(Any, torch._dynamo).exc.TorchDynamoException  # pyright: ignore[reportPrivateUsage]

    def compute(*args: Any) -> Tensor:  # noqa: ANN401
        try:
            return fast(*args)
        except Exception as error:
            if not isinstance(error, failure):
                raise
            reason = str(error).strip().split("\n", 1)[0]
            raise DeviceError(f"compile: torch failed at it ({reason}); leave it out") from error

    return compute


def _check_compiler(device: torch.device) -> None:
    if device.type == "cuda":
        if find_spec("triton") is None:
            raise DeviceError("compile: torch needs triton for this on a GPU: pip install triton")
    elif device.type != "cpu":
        raise DeviceError(f"compile: not possible on {device.type}; leave it out")
    elif not any(shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++")):
        raise DeviceError("compile: torch needs a C++ compiler for this on a CPU; install g++")
