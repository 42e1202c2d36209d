"""Blocks that torch compiles give what they give otherwise."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kinora.config import TINY
from kinora.errors import DeviceError
from kinora.models import VideoUNet
from kinora.runtime import PreparedUNet, compile_blocks
from kinora.runtime import compiled as module

SCRIPT = """
import sys, torch
from functools import partial
from torch.nn import functional as F
from kinora.config import TINY
from kinora.models import VideoUNet
from kinora.runtime import PreparedUNet, compile_blocks
from kinora.types import Condition

torch.manual_seed(0)
backend = sys.argv[1]
if backend != "inductor":
    torch.compile = partial(torch.compile, backend=backend, fullgraph=True)
unet = VideoUNet(TINY.unet).requires_grad_(False).eval()
for p in unet.parameters():
    if not p.any() or p.numel() == 1:
        torch.nn.init.normal_(p, std=0.1)
unet.to(memory_format=torch.channels_last)
running = PreparedUNet(unet)
condition = Condition(
    torch.randn(2, 1, 4, 8, 8), torch.randn(2, 1, TINY.unet.context_dim), torch.ones(2, 3)
)
x, noise = torch.randn(1, 3, 4, 8, 8), torch.zeros(1)
expected = running(x, noise, condition)
for block in running.blocks():
    block.__dict__.pop("share", None)
compile_blocks(running, torch.device("cpu"))
found = running(x, noise, condition)
blocks = len(list(running.blocks()))
from torch._dynamo.utils import counters
graphs = counters["stats"]["unique_graphs"]
error = (found - expected).abs().max().item()
assert 0 < graphs <= blocks, (graphs, blocks)
assert not counters["graph_break"], counters["graph_break"]
assert error < 1e-5 * expected.abs().max().clamp(min=1).item(), error
print("same", graphs, blocks)
"""


def run(backend: str, cache: Path) -> str:
    """In a process without the type checks of the tests, which torch would compile too."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, backend],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_blocks_are_captured_whole_and_give_the_same(tmp_path: Path) -> None:
    """As torch sees them, before any code is generated."""
    assert run("aot_eager", tmp_path).startswith("same")


@pytest.mark.slow
def test_blocks_compiled_for_this_machine_give_the_same(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Run it by hand: pytest -m slow tests/test_compiled.py (a minute, a C++ compiler)."""
    if pytestconfig.option.markexpr != "slow":
        pytest.skip("a minute of compiling: runs with -m slow only")
    assert run("inductor", tmp_path).startswith("same")
    assert any((tmp_path / "kinora" / "compiled").rglob("*.so")), "what was compiled is kept"


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    prepared = PreparedUNet(VideoUNet(TINY.unet))
    for device, said in (("cpu", "install g++"), ("cuda", "triton"), ("mps", "not possible")):
        with pytest.raises(DeviceError, match=said):
            compile_blocks(prepared, torch.device(device))


def test_a_failing_compiler_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: object, **_: object) -> object:
        def call(*_: object) -> None:
            raise torch._dynamo.exc.TorchDynamoException("no such header\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(DeviceError, match=r"\(no such header\); leave it out$"):
        module._compiled(module.space_time_res_block)()


def test_loading_and_animating_imports_no_compiler() -> None:
    """It takes half a second, and nobody asked for it."""
    script = (
        "import sys, kinora; from pathlib import Path\n"
        "pipeline = kinora.load('nano', device='cpu')\n"
        "pipeline.animate('examples/rocket.jpg', steps=1, frames=2, seed=0)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
