"""What is compared with the original implementation's numbers, and how close it has to be.

One function a file or part of it; tests/test_golden.py asserts them, benchmarks/golden.py prints
the differences. The tolerances are those that golden/README.md states.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from kinora.diffusion import euler, guided, karras, precondition
from kinora.models import preprocess
from kinora.models.embeddings import sinusoid
from kinora.pipeline import Pipeline
from kinora.pixels import to_pixels
from kinora.types import Condition
from tests.golden import Golden, Model, read

__all__ = ["CASES", "Case"]


class Case(NamedTuple):
    """|ours − stored| ≤ atol + rtol·|stored|, everywhere."""

    name: str
    ours: Tensor
    stored: Tensor
    atol: float
    rtol: float = 0.0


def of_clips(x: Tensor, clips: int) -> Tensor:
    return rearrange(x, "(b t) ... -> b t ...", b=clips)


# --- UNet ---------------------------------------------------------------------------------------


def unet_inputs(golden: Golden, case: str = "") -> tuple[Tensor, Tensor, Condition]:
    """Latents, c_noise and condition; the file has the photo's latent among the channels."""
    clips, latent = golden.metadata["batch"], golden.metadata["config"]["out_channels"]
    x = of_clips(golden["input.x"], clips)
    condition = Condition(
        image=x[:, :, latent:],
        context=of_clips(golden["input.context"], clips)[:, 0],
        vector=golden["input.time_ids"],
    )
    return x[:, :, :latent], of_clips(golden[f"input.timesteps{case}"], clips)[:, 0], condition


def unet(model: Model) -> Iterator[Case]:
    golden = read("unet")
    for case in ("", "_per_clip"):
        out = model.unet(*unet_inputs(golden, case)).flatten(0, 1)
        yield Case(f"unet output.out{case}", out, golden[f"output.out{case}"], 5e-5)
    dim, ids = golden.metadata["time_id_embedding_dim"], golden["input.time_ids"]
    vector = sinusoid(ids.flatten(), dim).view(len(ids), -1)
    yield Case("unet input.vector", vector, one_a_clip(golden["input.vector"], len(ids)), 2e-5)


def inside_the_unet(model: Model) -> Iterator[Case]:
    golden = read("unet")
    first = model.unet.down[0]
    modules: dict[str, nn.Module] = {
        "time_embed": model.unet.time_embedding,
        "label_emb": model.unet.vector_embedding,
        "input_blocks.1.0": first.resnets[0],
        "input_blocks.1.1": first.transformers[0],
        "middle_block": model.unet.middle,
    }
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, args, output: seen.update({name: output})

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    model.unet(*unet_inputs(golden))
    for handle in handles:
        handle.remove()
    for name, output in seen.items():
        stored = golden[f"intermediate.{name}"]
        stored = stored if len(output) == len(stored) else one_a_clip(stored, len(output))
        yield Case(f"unet intermediate.{name}", output, stored, 5e-5)


def one_a_clip(x: Tensor, clips: int) -> Tensor:
    return of_clips(x, clips)[:, 0]


# --- VAE and image encoder ----------------------------------------------------------------------


def vae(model: Model) -> Iterator[Case]:
    golden = read("vae")
    image = to_pixels([golden["input.image_uint8"].numpy()])
    yield Case("vae input.image", image, golden["input.image"], 0)
    moments = model.vae.encode(image)
    yield Case("vae output.moments", moments, golden["output.moments"], 5e-5)
    yield Case("vae output.latent", moments.chunk(2, dim=1)[0], golden["output.latent"], 5e-5)
    frames = model.vae.decode(golden["input.latents"][None])[0]
    yield Case("vae output.frames", frames, golden["output.frames"], 5e-5)
    clips = of_clips(golden["input.latents_batch"], golden.metadata["batch_num_clips"])
    frames = model.vae.decode(clips).flatten(0, 1)
    yield Case("vae output.frames_batch", frames, golden["output.frames_batch"], 5e-5)


def image_encoder(model: Model) -> Iterator[Case]:
    golden = read("clip")
    for case in golden.metadata["cases"]:
        image = to_pixels([golden[f"preprocess.{case}.image_uint8"].numpy()])
        pixels = preprocess(image, golden.metadata["config"]["image_size"])
        yield Case(f"clip preprocess.{case}", pixels, golden[f"preprocess.{case}.output"], 1e-4)
        embedding, stored = model.image_encoder(image)[:, 0], golden[f"output.embedding.{case}"]
        yield Case(f"clip output.embedding.{case}", embedding, stored, 5e-5)


# --- sampler ------------------------------------------------------------------------------------


def schedule(model: Model) -> Iterator[Case]:
    golden = read("sampler")
    setting = golden.metadata["config"]
    for name in (name for name in golden.tensors if name.startswith("sigmas.")):
        steps = len(golden[name]) - 1
        levels = karras(steps, setting["sigma_min"], setting["sigma_max"], setting["rho"])
        yield Case(f"sampler {name}", torch.tensor(levels), golden[name], 0, 1e-5)


def scaling(model: Model) -> Iterator[Case]:
    """With x = 1 and a network that answers 0, D is c_skip; with x = 0 and one that answers 1,
    c_out; what the network is handed for x = 1 is c_in."""
    golden = read("sampler")
    sigma = golden["scaling.sigma"].flatten()
    b = len(sigma)
    condition = Condition(torch.zeros(b, 1, 1, 1, 1), torch.zeros(b, 1, 1), torch.zeros(b, 3))
    one = torch.ones(b, 1, 1, 1, 1)
    found: dict[str, Tensor] = {}

    def silent(x: Tensor, c_noise: Tensor, told: Condition) -> Tensor:
        found.update(c_in=x, c_noise=c_noise)
        return torch.zeros_like(x)

    found["c_skip"] = precondition(silent, condition)(one, sigma)
    found["c_out"] = precondition(lambda x, c, told, /: one, condition)(0 * one, sigma)
    for name, ours in found.items():
        stored = golden[f"scaling.{name}"].flatten()
        yield Case(f"sampler scaling.{name}", ours.flatten(), stored, 1e-6)


def toy(x: Tensor, c_noise: Tensor, condition: Condition) -> Tensor:
    """The toy network that golden/README.md defines, on whole clips."""
    repeats = len(condition.vector) // len(x)
    x, c_noise = x.repeat(repeats, 1, 1, 1, 1), c_noise.repeat(repeats)
    told = 0.2 * c_noise.cos() * condition.context.mean((1, 2))
    told = told + 0.1 * (c_noise + condition.vector.sum(1)).sin()
    return 0.6 * x + 0.3 * (x + condition.image).tanh() + told[:, None, None, None, None]


def toy_runs(model: Model) -> Iterator[Case]:
    """Our condition has one context and one vector a clip, the toy run one a frame: a frame there
    is a clip here, with its own guidance scale."""
    golden = read("sampler")
    setting = golden.metadata["config"]
    condition = Condition(
        golden["toy.concat"][:, None], golden["toy.crossattn"], golden["toy.vector"]
    )
    ramp = torch.linspace(setting["min_scale"], setting["max_scale"], setting["num_frames"])
    for steps in setting["steps"]:
        sigmas = karras(steps, setting["sigma_min"], setting["sigma_max"], setting["rho"])
        x = golden["toy.noise"][:, None] * math.sqrt(1 + sigmas[0] ** 2)
        walk = list(euler(guided(toy, condition, ramp[:, None]), x, sigmas))
        states = torch.stack([x, *(step.x for step in walk)])[:, :, 0]
        denoised = torch.stack([step.denoised for step in walk])[:, :, 0]
        name = f"toy.{steps}"
        yield Case(f"sampler {name}.states", states, golden[f"{name}.states"], 2e-5, 1e-5)
        yield Case(f"sampler {name}.denoised", denoised, golden[f"{name}.denoised"], 2e-5)
        yield Case(f"sampler {name}.final", states[-1], golden[f"{name}.final"], 2e-5)


# --- pipeline -----------------------------------------------------------------------------------


def condition_of(model: Model, run: Golden) -> Condition:
    setting = run.metadata["config"]
    return Pipeline(model.networks()).encode(
        to_pixels([run["input.image_uint8"].numpy()]),
        fps=torch.tensor([setting["fps_id"] + 1.0]),
        motion=torch.tensor([float(setting["motion_bucket_id"])]),
        noise_aug=torch.tensor([float(setting["cond_aug"])]),
        pixel_noise=run["input.pixel_noise"],
    )


def conditioning(model: Model) -> Iterator[Case]:
    run = read("pipeline")
    dim, given = run.metadata["time_id_embedding_dim"], condition_of(model, run)
    for kind, told in (("cond", given), ("uncond", given.unconditional())):
        vector = sinusoid(told.vector.flatten(), dim).view(1, -1)
        parts = {"concat": told.image[0], "crossattn": told.context, "vector": vector}
        for name, ours in parts.items():
            stored = run[f"{kind}.{name}"]
            yield Case(f"pipeline {kind}.{name}", ours.expand_as(stored), stored, 5e-5)


def first_step(model: Model) -> Iterator[Case]:
    """Guided by 0 the sampler follows the unconditional half, by 1 the conditional one."""
    run = read("pipeline")
    setting, condition = run.metadata["config"], condition_of(model, run)
    frames = setting["num_frames"]
    stored = run["first_step.denoised_uncond_cond"].unflatten(0, (2, frames))
    for scale, half in ((0.0, stored[0]), (1.0, stored[1])):
        steps = Pipeline(model.networks()).sample(
            condition,
            run["input.latent_noise"][None],
            steps=setting["num_steps"],
            guidance=torch.full((1, frames), scale),
        )
        yield Case(f"pipeline first_step, scale {scale:.0f}", next(steps).denoised[0], half, 5e-5)


def whole_run(model: Model) -> Iterator[Case]:
    run = read("pipeline")
    setting, pipe = run.metadata["config"], Pipeline(model.networks())
    scale = torch.linspace(setting["min_scale"], setting["max_scale"], setting["num_frames"])[None]
    noise = run["input.latent_noise"][None]
    walk = list(
        pipe.sample(condition_of(model, run), noise, steps=setting["num_steps"], guidance=scale)
    )
    states = torch.stack([step.x[0] for step in walk])
    denoised = torch.stack([step.denoised[0] for step in walk])
    yield Case("pipeline latents.states", states, run["latents.states"][1:], 2e-4, 1e-5)
    yield Case("pipeline last state", states[-1], run["latents.states"][-1], 2e-4)
    yield Case("pipeline latents.denoised", denoised, run["latents.denoised"], 2e-4)
    for chunk in setting["decoding_t"]:
        frames = torch.cat(list(pipe.decode(walk[-1].x, chunk)), dim=1)[0]
        whole = chunk == setting["num_frames"]
        name = "frames.all" if whole else f"frames.chunk{chunk}"
        yield Case(f"pipeline {name}", frames, run[name], 1e-4)
        if whole:
            video = ((frames + 1) / 2).clamp(0, 1)
            yield Case("pipeline video.all", video, run["video.all"], 1e-4)


CASES: tuple[Callable[[Model], Iterator[Case]], ...] = (
    unet,
    inside_the_unet,
    vae,
    image_encoder,
    schedule,
    scaling,
    toy_runs,
    conditioning,
    first_step,
    whole_run,
)
