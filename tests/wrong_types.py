"""Calls of public functions with one argument of a wrong type each, in a process of their own.

Run as a program: the checks of types that other tests run under would answer in Kinora's place.
Prints a JSON object: what each call ended in that gave neither a result nor a KinoraError.
"""

import io
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import kinora
from kinora import media, weights
from kinora.config import TINY, ImageEncoderConfig, UNetConfig, VAEConfig
from kinora.device import pick_device, pick_dtype
from kinora.errors import KinoraError
from kinora.types import Condition
from tests.tiny import tiny_pipeline

PIXELS = np.zeros((32, 64, 3), np.uint8)
PHOTO = Image.fromarray(PIXELS)
FRAMES = np.zeros((2, 16, 16, 3), np.uint8)

WRONG: dict[str, Any] = {
    "None": None,
    "an integer": -7,
    "a float": 2.5,
    "NaN": float("nan"),
    "a boolean": True,
    "text": "nonsense",
    "bytes": b"nonsense",
    "an empty list": [],
    "a list of texts": ["a", "b"],
    "a dictionary": {"a": 1},
    "an object": object(),
    "a class": dict,
    "a function": len,
    "an array": np.zeros((2, 3)),
    "an array of objects": np.array([None, "a"], dtype=object),
    "a tensor": torch.zeros(2, 3),
    "a tensor of integers": torch.zeros(5, dtype=torch.int64),
    "a meta tensor": torch.zeros(3, 4, 4, device="meta"),
    "a data type": torch.int8,
    "a device": torch.device("meta"),
    "a picture": PHOTO,
    "a stream": io.BytesIO(b"nonsense"),
    "a configuration": TINY,
    "a set": {1, 2},
}


def calls(folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Name → function and arguments that are right; each is then replaced by the wrong ones."""
    pipe = tiny_pipeline()
    parts = {name: getattr(pipe.networks, name) for name in ("unet", "vae", "image_encoder")}
    model = weights.save_networks(folder / "tiny.safetensors", TINY, parts)
    video = media.write_video(folder / "clip.gif", FRAMES, 7, {})
    clip = kinora.Clip(FRAMES, 7, {})
    photo = folder / "photo.png"
    PHOTO.save(photo)
    ours = {"unet.conv_in.bias": torch.zeros(32)}
    theirs = {"model.diffusion_model.input_blocks.0.0.bias": torch.zeros(32)}
    unet = {"conv_in.bias": torch.zeros(32)}
    out = folder / "out"
    condition = Condition(torch.zeros(1, 1, 4, 8, 16), torch.zeros(1, 1, 32), torch.zeros(1, 3))
    latents = torch.zeros(1, 2, 4, 8, 16)
    number = torch.zeros(1)
    request: dict[str, Any] = {
        "image": PHOTO, "frames": 1, "size": (64, 32), "steps": 1, "fps": 7, "motion": 1,
        "noise_aug": 0.1, "guidance": (1.0, 1.0), "seed": 1, "quality": "exact",
        "guidance_interval": (0.0, 1.0), "guidance_every": 1, "inner_every": 1,
        "sampler": "euler", "schedule": "karras", "fit": "crop", "decode_chunk": 1,
    }  # fmt: skip
    cpu = {"device": "cpu", "dtype": "float32"}
    writing = {"frames": FRAMES, "fps": 7, "recipe": {}, "quality": 8}
    return {
        "Request": (kinora.Request, request),
        "Request.resolved": (
            kinora.Request(image=photo).resolved, {"config": TINY, "photo_size": (4, 3)}
        ),
        "load": (
            kinora.load,
            {
                "source": model, **cpu, "vae_dtype": "float32", "quantize": "int8",
                "variant": "svd", "memory": "8GiB", "hub": weights.DEFAULT_HUB,
            },
        ),
        "pick_device": (pick_device, {"name": "cpu"}),
        "pick_dtype": (pick_dtype, {"name": "float32", "device": torch.device("cpu")}),
        "Pipeline": (kinora.Pipeline, {"networks": pipe.networks, "memory": 2**33}),
        "animate": (pipe.animate, request),
        "animate_batch": (pipe.animate_batch, {"requests": [kinora.Request(**request)]}),
        "stream": (
            lambda **given: list(pipe.stream(**given)),
            {"requests": kinora.Request(**request), "journal": None},
        ),
        "encode": (
            pipe.encode,
            {
                "images": torch.zeros(1, 3, 32, 64), "fps": number, "motion": number,
                "noise_aug": number, "pixel_noise": torch.zeros(1, 3, 32, 64),
                "context": torch.zeros(1, 1, 32),
            },
        ),
        "sample": (
            lambda **given: list(pipe.sample(**given)),
            {
                "condition": condition, "noise": latents, "steps": 1,
                "guidance": torch.ones(1, 2), "interval": (0.0, 1.0), "guidance_every": 1,
                "inner_every": 1, "sampler": "euler", "schedule": "karras",
            },
        ),
        "decode": (
            lambda **given: list(pipe.decode(**given)), {"latents": latents, "chunk": 1}
        ),
        "preview": (pipe.preview, {"denoised": latents, "frame": 0}),
        "recipe": (pipe.recipe, {"plan": kinora.Request(**request).resolved(TINY, (4, 3))}),
        "Clip": (kinora.Clip, {"frames": FRAMES, "fps": 7, "recipe": {}}),
        "Clip.save": (
            partial(clip.save, overwrite=True), {"path": out / "a.gif", "video_quality": 8}
        ),
        "Clip.save_free": (clip.save_free, {"path": out / "b.gif", "video_quality": 8}),
        "Clip.open": (kinora.Clip.open, {"path": video}),
        "ModelConfig": (kinora.ModelConfig, fields(TINY)),
        "UNetConfig": (UNetConfig, fields(TINY.unet)),
        "VAEConfig": (VAEConfig, fields(TINY.vae)),
        "ImageEncoderConfig": (ImageEncoderConfig, fields(TINY.image_encoder)),
        "load_photo": (media.load_photo, {"source": photo}),
        "fit": (media.fit, {"photo": PHOTO, "size": (4, 3), "how": "crop"}),
        "write_video": (
            partial(media.write_video, overwrite=True), {"path": out / "c.gif", **writing}
        ),
        "write_video_free": (media.write_video_free, {"path": out / "d.gif", **writing}),
        "read_video": (media.read_video, {"path": video}),
        "read_recipe": (media.read_recipe, {"path": video}),
        "check_output": (media.check_output, {"path": out / "e.gif"}),
        "check_place": (media.check_place, {"path": out / "e.gif"}),
        "free_name": (media.free_name, {"path": out / "e.gif"}),
        "convert": (
            partial(weights.convert, overwrite=True),
            {
                "source": model, "target": out / "f.safetensors", "to": "kinora",
                "dtype": torch.float32, "variant": None, "template": None,
                "unknown_settings": "refuse",
            },
        ),
        "describe": (weights.describe, {"path": model, "variant": None}),
        "verify": (weights.verify, {"path": model, "variant": None}),
        "locate": (
            partial(weights.locate, half=False), {"source": model, "hub": weights.DEFAULT_HUB}
        ),
        "load_networks": (
            weights.load_networks,
            {"source": model, **cpu, "vae_dtype": torch.float32, "variant": None},
        ),
        "save_networks": (
            partial(weights.save_networks, overwrite=True),
            {"path": out / "g.safetensors", "config": TINY, "networks": parts, "dtype": None,
             "unused": None},
        ),
        "from_sgm": (weights.from_sgm, {"tensors": theirs, "config": TINY}),
        "to_sgm": (weights.to_sgm, {"tensors": ours, "config": TINY}),
        "from_diffusers": (
            weights.from_diffusers, {"component": "unet", "tensors": unet, "config": TINY}
        ),
        "to_diffusers": (weights.to_diffusers, {"tensors": ours, "config": TINY}),
    }  # fmt: skip


def fields(config: object) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__slots__}  # pyright: ignore


def outcome(function: Callable[..., Any], arguments: Mapping[str, Any]) -> str | None:
    """What a call ends in that isn't Kinora's own."""
    try:
        function(**arguments)
    except KinoraError as error:
        return None if 20 < len(str(error)) < 600 else f"KinoraError: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return None


def main(only: list[str]) -> None:
    warnings.simplefilter("ignore")
    found: dict[str, str] = {}
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # some of the wrong values are names of files that will be written
        for name, (function, right) in calls(Path(folder)).items():
            if only and name not in only:
                continue
            for argument in right:
                for kind, wrong in WRONG.items():
                    count += 1
                    ended = outcome(function, {**right, argument: wrong})
                    if ended is not None:
                        found[f"{name}({argument}={kind})"] = ended
    json.dump({"calls": count, "found": found}, sys.stdout, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:])
