"""Arguments of other types, taken where their meaning is obvious.

Run by `test_types.py` in a process of its own, without the checks of types of the other tests.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kinora
from kinora import weights
from kinora.clip import Clip
from kinora.config import TINY
from kinora.errors import DeviceError, KinoraError, MediaError, RequestError
from kinora.request import Request
from tests.cli import model
from tests.tiny import tiny_pipeline

__all__ = ["model"]

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)


def test_a_photo_may_be_a_tensor() -> None:
    pipe = tiny_pipeline()
    asked = {"seed": 3, "steps": 1}
    expected = pipe.animate(PIXELS, **asked).frames
    tensor = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
    for photo in (Image.fromarray(PIXELS), tensor, tensor / 255, (tensor / 255).numpy()):
        assert np.array_equal(pipe.animate(photo, **asked).frames, expected)
    with pytest.raises(MediaError, match="photo None: must be a path"):
        pipe.animate_batch([Request(image=None)])


def test_numbers_may_be_those_of_numpy_and_torch() -> None:
    plain = Request(image="a", frames=4, size=(64, 32), seed=3, noise_aug=0.5, guidance=(1.0, 2.0))
    others = {
        "frames": np.int64(4),
        "size": np.array([64, 32]),
        "seed": torch.tensor(3),
        "noise_aug": np.float32(0.5),
        "guidance": [np.float64(1), 2],
    }
    request = Request(image="a", **others)
    assert request == plain
    json.dumps(request.resolved(TINY, (64, 32)).to_dict())
    for wrong in (True, np.True_, 4.0, "4", torch.zeros(2)):
        with pytest.raises(RequestError, match=r"frames .*: must be a whole number from 1 to 256"):
            Request(image="a", frames=wrong)


def test_devices_and_number_formats_may_be_torch_s_own_or_names(model: Path) -> None:
    for device, dtype in (("cpu", "bfloat16"), (torch.device("cpu"), torch.bfloat16)):
        pipe = kinora.load(model, device=device, dtype=dtype, vae_dtype=torch.float32)
        networks = weights.load_networks(str(model), device=device, dtype=dtype)
        assert (pipe.dtype, networks.unet.conv_in.weight.dtype) == (torch.bfloat16,) * 2
    for wrong in (torch.int8, torch.float64, "float8", 16):
        with pytest.raises(DeviceError, match=r"dtype .*: must be one of float16, bfloat16"):
            weights.load_networks(model, device="cpu", dtype=wrong)


def test_paths_may_be_texts(model: Path, tmp_path: Path) -> None:
    assert weights.describe(str(model)) == weights.describe(model)
    assert weights.verify(str(model)) == weights.verify(model)
    target = tmp_path / "b.safetensors"
    weights.convert(str(model), str(target), to="kinora", dtype="float16")
    assert weights.describe(target).dtypes.keys() == {"float16"}


def test_frames_may_be_a_tensor(tmp_path: Path) -> None:
    clip = Clip(torch.from_numpy(PIXELS[None].repeat(2, 0)), np.int64(7), {})
    assert isinstance(clip.frames, np.ndarray)
    clip.save(str(tmp_path / "a.gif"))


def test_one_error_class_catches_them_all() -> None:
    with pytest.raises(KinoraError, match="animate"):
        next(tiny_pipeline().stream(["photo.jpg"]))
