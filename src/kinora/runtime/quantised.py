"""Linear layers that multiply whole numbers of 8 bits: an approximation that saves time and memory.

Weights get a scale for each row. On a CPU the products are oneDNN's, on a GPU torchao's; both
choose the scale of what is multiplied with anew at every call.
"""

import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from kinora.arguments import shown
from kinora.errors import DeviceError
from kinora.runtime.packed import Packed

__all__ = ["is_quantised", "quantised_bytes", "quantiser"]

LAYERS = re.compile(r"unet\..*\.transformers?\..*(to_[qkv]|to_out|proj_in|proj_out)\.weight")
"""Of the UNet's transformers: all that is computed for every token at every step."""

CAPABILITY = {"int8": (8, 0), "float8": (8, 9)}
"""Of the first NVIDIA GPUs that multiply such numbers."""

MULTIPLE = 16
"""What widths must be multiples of for the kernels."""


def is_quantised(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor ("unet.down.0. … .to_q.weight") is one that quantising is for."""
    fits = len(shape) == 2 and not any(width % MULTIPLE for width in shape)
    return fits and LAYERS.fullmatch(name) is not None


def quantised_bytes(shape: tuple[int, ...]) -> int:
    """Of a weight of this shape: a byte for each value, and an fp32 scale for each row."""
    rows, columns = shape
    return rows * (columns + 4)


def quantiser(
    kind: str, device: torch.device, dtype: torch.dtype, *, compiled: bool = False
) -> Callable[[str, Tensor], Tensor]:
    """What turns weights, by their names, into quantised ones where that pays.

    kind: "int8" or "float8". dtype: of what isn't quantised. compiled: whether blocks will be.
    Raises DeviceError when the kind is unknown, the device can't do it, or torchao is missing.
    """
    if shown(kind) not in map(repr, CAPABILITY):
        raise DeviceError(f"quantize {shown(kind)}: must be one of {', '.join(CAPABILITY)}")
    if device.type == "cpu":
        _check_cpu(kind, dtype, compiled)
        warnings.filterwarnings("ignore", message=".*torch.quantize_per_channel")  # to be replaced
        return partial(_where_it_pays, lambda weight: Packed(weight, Int8(weight)))
    if device.type != "cuda":
        raise DeviceError(f"quantize {kind}: not possible on {device.type}; leave it out")
    _check_cuda(kind, device, dtype, compiled)
    return partial(_where_it_pays, partial(_by_torchao, _torchao_config(kind)))


def _check_cpu(kind: str, dtype: torch.dtype, compiled: bool) -> None:
    if kind != "int8":
        raise DeviceError(f"quantize {kind}: a CPU multiplies int8 only; use int8")
    if dtype != torch.float32:
        raise DeviceError("quantize int8: on a CPU only together with dtype float32")
    if compiled:
        raise DeviceError("quantize: on a CPU quantised layers can't be compiled; leave one out")
    if "onednn" not in torch.backends.quantized.supported_engines:
        raise DeviceError("quantize int8: this build of torch has no oneDNN to do it with")


def _check_cuda(kind: str, device: torch.device, dtype: torch.dtype, compiled: bool) -> None:
    if kind == "float8" and dtype != torch.bfloat16:
        raise DeviceError("quantize float8: only together with dtype bfloat16")
    if kind == "int8" and not compiled:
        raise DeviceError("quantize int8: on a GPU only together with compile")
    if torch.cuda.get_device_capability(device) < CAPABILITY[kind]:
        other = ", use int8" if kind == "float8" else ""
        raise DeviceError(f"quantize {kind}: this GPU doesn't multiply such numbers{other}")


def _where_it_pays(quantise: Callable[[Tensor], Tensor], name: str, tensor: Tensor) -> Tensor:
    return quantise(tensor) if is_quantised(name, tuple(tensor.shape)) else tensor


class Int8:
    """Weights of a linear layer on the CPU in whole numbers of 8 bits.

    CPUs without VNNI add two products of 8 bits in 16, which overflow: there weights get 7 bits.
    """

    def __init__(self, weight: Tensor) -> None:
        self.nbytes = quantised_bytes(tuple(weight.shape))
        largest = 127 if torch.cpu._is_vnni_supported() else 63  # pyright: ignore[reportPrivateUsage]
        scales = weight.abs().amax(dim=1).clamp_(min=1e-12) / largest
        zeros = torch.zeros(len(weight), dtype=torch.long)
        self.weight: Tensor | None = torch.quantize_per_channel(
            weight, scales, zeros, 0, torch.qint8
        )
        self.packed: Any = None

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.packed is None:
            self.packed, self.weight = _prepack(self.weight, bias), None
        return torch.ops.quantized.linear_dynamic(x, self.packed, False)

    def dense(self) -> Tensor:
        weight = self.weight
        if weight is None:
            weight, _ = torch.ops.quantized.linear_unpack(self.packed)
        return weight.dequantize()

    def fits(self, x: Tensor) -> bool:
        return True


def _prepack(weight: Tensor | None, bias: Tensor | None) -> object:
    """Weight and bias as oneDNN's kernel reads them: the quickest even without VNNI."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    try:
        return torch.ops.quantized.linear_prepack(weight, bias)
    finally:
        torch.backends.quantized.engine = engine


def _torchao_config(kind: str) -> Any:  # noqa: ANN401
    try:
        from torchao import quantization  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise DeviceError(
            f"quantize {kind} on a GPU needs torchao: pip install 'kinora[quantize]'"
        ) from error
    ao = cast(Any, quantization)
    if kind == "int8":
        return ao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    return ao.Float8DynamicActivationFloat8WeightConfig(
        granularity=ao.PerRow(), set_inductor_config=False
    )


def _by_torchao(config: Any, weight: Tensor) -> Tensor:  # noqa: ANN401
    from torchao.quantization import quantize_  # pyright: ignore

    layer = nn.Linear(*reversed(weight.shape), bias=False, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(layer, config)
    return layer.weight.detach()
