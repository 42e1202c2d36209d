"""Whether fp32 is computed in TF32 or another shorter format while Kinora computes.

By default torch lets an NVIDIA GPU run fp32 convolutions in TF32, whose mantissa has 10 bits.
torch's settings are those of the whole process: they are changed for the time of each call alone,
and what other threads compute during it follows them too.
"""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch

from kinora.errors import DeviceError

__all__ = ["Fp32", "check_tf32", "fp32_computed_as"]

Fp32 = Literal["ieee", "tf32"]
"""In which format fp32 is multiplied: its own, or one of 19 bits."""

SAME = {"ieee": ("ieee", "none"), "tf32": ("tf32",)}
"""Values of torch's settings that mean a format; "none" is nothing set, which is fp32's own."""


@runtime_checkable
class Setting(Protocol):
    """One of torch's: of an operation, of a backend, or of all."""

    @property
    def fp32_precision(self) -> str: ...

    @fp32_precision.setter
    def fp32_precision(self, value: str) -> None: ...


class _Legacy:
    """The settings of torch before 2.9 in the words of the later ones."""

    def __init__(self, flags: Any) -> None:  # noqa: ANN401
        self.flags = flags

    @property
    def fp32_precision(self) -> str:
        return "tf32" if self.flags.allow_tf32 else "ieee"

    @fp32_precision.setter
    def fp32_precision(self, value: str) -> None:
        self.flags.allow_tf32 = value == "tf32"


def check_tf32(device: torch.device) -> None:
    """Raises DeviceError where a device has no TF32."""
    if device.type != "cuda":
        raise DeviceError(f"tf32: not possible on {device.type}, only on a GPU; leave it out")
    if torch.cuda.get_device_capability(device) < (8, 0):
        raise DeviceError(
            "tf32: this GPU has no such format (compute capability 8.0); leave it out"
        )


@contextmanager
def fp32_computed_as(wanted: Fp32, device: torch.device) -> Generator[None, None, None]:
    """Within it, fp32 convolutions and products on a device are computed in this format.

    Around a call, never around a `yield`: what a program has set is in force again afterwards.
    Where threads are within it at a time, "ieee" wins, and the last to leave restores.

    Only the newer of torch's two interfaces is used, where there is one. It can be read whichever
    of them a program has used, and is what kernels follow. Reading the older one raises an error
    in torch while the two disagree, so within this context nothing else should.
    """
    with LOCK:
        INSIDE[device.type, wanted] += 1
        _follow(device.type)
    try:
        yield
    finally:
        with LOCK:
            INSIDE[device.type, wanted] -= 1
            _follow(device.type)


LOCK = Lock()
INSIDE: Counter[tuple[str, Fp32]] = Counter()
"""How many are within the context, by kind of device and format."""
KEPT: dict[str, dict[int, tuple[Setting, str]]] = {}
"""What a program had set itself, by kind of device and place among the settings."""


def _follow(kind: str) -> None:
    """Set what those within the context need, or restore the program's own."""
    kept = KEPT.setdefault(kind, {})
    if not INSIDE[kind, "ieee"] and not INSIDE[kind, "tf32"]:
        for _, (setting, value) in sorted(kept.items(), reverse=True):
            setting.fp32_precision = value
        kept.clear()
        return
    wanted: Fp32 = "ieee" if INSIDE[kind, "ieee"] else "tf32"
    operations, settings = _settings(kind)
    for number, (setting, *above) in enumerate(settings):
        if all(operation.fp32_precision in SAME[wanted] for operation in operations):
            return
        if setting.fp32_precision != wanted:
            kept.setdefault(number, (setting, _stored(setting, *above)))
            setting.fp32_precision = wanted


def _settings(kind: str) -> tuple[list[Setting], list[list[Setting]]]:
    """Those of convolutions and of products; and what to set in turn until they are right, each
    with the setting that it inherits from.

    On a GPU the backend's comes first. That of convolutions is TF32 until it or one above it is
    set, a state that can't be restored; but where it is in that state, the backend's is enough.
    """
    backends = cast(Any, torch.backends)
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    if not hasattr(cudnn, "conv"):
        legacy: list[Setting] = [_Legacy(cudnn), _Legacy(backends.cuda.matmul)]
        return (legacy, [[flag] for flag in legacy]) if kind == "cuda" else ([], [])
    if kind == "cuda":
        operations = [cudnn.conv, backends.cuda.matmul]
        return operations, [[cudnn, backends], *([operation] for operation in operations)]
    if kind == "cpu":  # where products may be set to bf16
        operations = [mkldnn.conv, mkldnn.matmul]
        return operations, [[operation, backends] for operation in operations]
    return [], []


def _stored(setting: Setting, *above: Setting) -> str:
    """What was set here; "none" where it is inherited, which reading alone does not tell."""
    value = setting.fp32_precision
    for parent in above:
        before = parent.fp32_precision
        parent.fp32_precision = other = "tf32" if value == "ieee" else "ieee"
        inherited = setting.fp32_precision == other
        parent.fp32_precision = before
        if inherited:
            return "none"
    return value
