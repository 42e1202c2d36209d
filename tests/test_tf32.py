"""fp32 is computed as fp32, whatever a program has set, and what it has set stays as it was."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest
import torch

import kinora
from kinora.errors import DeviceError
from kinora.request import Request
from kinora.runtime.tf32 import check_tf32, fp32_computed_as
from tests.tiny import tiny_pipeline

BACKENDS = cast(Any, torch.backends)
CUDA = torch.device("cuda")
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)

PROGRAMS = [
    "pass",
    "b.cudnn.allow_tf32 = True",
    "b.cudnn.allow_tf32 = False",
    "b.cuda.matmul.allow_tf32 = True",
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
    "b.fp32_precision = 'tf32'",
    "b.fp32_precision = 'ieee'",
    "b.cudnn.fp32_precision = 'tf32'",
    "b.cudnn.conv.fp32_precision = 'tf32'",
    "b.cudnn.conv.fp32_precision = 'none'",
    "b.cuda.matmul.fp32_precision = 'tf32'",
    "b.fp32_precision = b.cudnn.fp32_precision = 'tf32'",
]
"""What programs do through either of torch's interfaces."""

SCRIPT = """
import json, os, sys, warnings, torch, kinora
from kinora.runtime.tf32 import fp32_computed_as
warnings.simplefilter("ignore")
b = torch.backends
def answer(read):
    try:
        return str(read())
    except RuntimeError:
        return "mixed"
def operations():
    return [o.fp32_precision for o in (b.cudnn.conv, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.matmul)]
def everything():
    legacy = (lambda: b.cudnn.allow_tf32, lambda: b.cuda.matmul.allow_tf32,
              torch.get_float32_matmul_precision)
    return [b.fp32_precision, b.cudnn.fp32_precision, *operations(), *map(answer, legacy)]
def later():  # what was inherited is still
    found = [everything()]
    for setting in (b, b.cudnn):
        before = setting.fp32_precision
        for value in ("ieee", "tf32", "none"):
            setting.fp32_precision = value
            found.append(everything())
        setting.fp32_precision = before
    return found
def child(program, wanted):
    inside = None
    exec(program)
    if wanted is not None:
        with fp32_computed_as(wanted, torch.device("cuda")), \\
             fp32_computed_as("ieee", torch.device("cpu")):
            inside = operations()
    print(json.dumps([program, wanted, inside, later()]), flush=True)
for program in json.loads(sys.argv[1]):
    for wanted in (None, "ieee", "tf32"):
        if not os.fork():  # each in a process whose settings are torch's own
            child(program, wanted)
            os._exit(0)
        assert os.wait()[1] == 0
"""

LOADING = "kinora.load('nano', device='cpu')"


@pytest.fixture(scope="module")
def seen() -> dict[tuple[str, str | None], tuple[list[str] | None, list[list[str]]]]:
    """By program and format: the operations' settings within, and all settings afterwards."""
    command = [sys.executable, "-c", SCRIPT, json.dumps([*PROGRAMS, LOADING])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {(program, wanted): (inside, after) for program, wanted, inside, after in lines}


@pytest.mark.parametrize("program", PROGRAMS)
def test_fp32_is_fp32_and_the_programs_own_settings_stay(program: str, seen: Any) -> None:  # noqa: ANN401
    _, untouched = seen[program, None]
    inside, after = seen[program, "tf32"]
    assert (inside[:2], after) == (["tf32", "tf32"], untouched)
    inside, after = seen[program, "ieee"]
    assert set(inside) <= {"ieee", "none"}
    assert after == untouched


def test_importing_and_loading_sets_nothing(seen: Any) -> None:  # noqa: ANN401
    assert seen[LOADING, None] == seen["pass", None]


@pytest.fixture
def medium() -> Iterator[None]:
    """A program that lets a CPU multiply fp32 in bf16."""
    before = BACKENDS.mkldnn.matmul.fp32_precision
    BACKENDS.mkldnn.matmul.fp32_precision = "bf16"
    yield
    BACKENDS.mkldnn.matmul.fp32_precision = before


@pytest.mark.usefixtures("medium")
def test_every_network_computes_fp32_and_whoever_iterates_has_their_own_settings() -> None:
    pipeline = tiny_pipeline()
    seen: dict[str, set[str]] = {}

    def look(name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            seen.setdefault(name, set()).add(BACKENDS.mkldnn.matmul.fp32_precision)

        return hook

    layers = {
        "encoder": pipeline.vae.encoder.conv_in,
        "decoder": pipeline.vae.decoder.conv_in,
        "unet": pipeline.unet.conv_out,
        "image encoder": pipeline.image_encoder,
    }
    for name, layer in layers.items():
        layer.register_forward_hook(look(name))
    for _ in pipeline.stream(Request(image=PHOTO, frames=2, size=(64, 64), steps=2, seed=0)):
        assert BACKENDS.mkldnn.matmul.fp32_precision == "bf16"
    assert seen == {name: {"ieee"} for name in layers}


def test_the_stricter_of_two_threads_wins_and_the_last_one_restores() -> None:
    before = BACKENDS.cudnn.conv.fp32_precision
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with fp32_computed_as("ieee", CUDA):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=other)
    with fp32_computed_as("tf32", CUDA):
        assert BACKENDS.cudnn.conv.fp32_precision == "tf32"
        thread.start()
        entered.wait()
        assert BACKENDS.cudnn.conv.fp32_precision == "ieee"
    assert BACKENDS.cudnn.conv.fp32_precision == "ieee"
    leave.set()
    thread.join()
    assert BACKENDS.cudnn.conv.fp32_precision == before


def test_tf32_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="tf32: not possible on cpu"):
        kinora.load(device="cpu", tf32=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(DeviceError, match=r"compute capability 8\.0"):
        check_tf32(CUDA)
