"""Running the command line from tests."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from kinora.cli import main
from kinora.config import TINY
from kinora.weights import save_networks
from tests.checkpoints import modules

__all__ = ["Kinora", "Outcome", "folder", "kinora", "model", "write_photo"]


class Outcome(NamedTuple):
    """What a person or a script sees of a command."""

    code: int
    out: str
    err: str


Kinora = Callable[..., Outcome]


@pytest.fixture
def kinora(capsys: pytest.CaptureFixture[str]) -> Kinora:
    """Run a command in this process."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert isinstance(end.value.code, int)
        return Outcome(end.value.code, out, err)

    return run


@cache
def _model() -> tuple[TemporaryDirectory[str], Path]:
    kept = TemporaryDirectory()
    path = Path(kept.name) / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kept, save_networks(path, TINY, modules(TINY))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model of random weights, outside the current folder."""
    return Path(shutil.copy(_model()[1], tmp_path_factory.mktemp("model")))


def write_photo(path: Path, width: int = 96, height: int = 56, seed: int = 0) -> Path:
    """A picture of coarse noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(coarse).resize((width, height)).save(path)
    return path
