"""The networks and the whole pipeline against the original implementation's own numbers.

The tolerances are those that golden/README.md states.
"""

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn

from kinora.models import preprocess
from kinora.models.embeddings import sinusoid
from kinora.pipeline import Pipeline, to_pixels
from kinora.types import Condition
from tests.golden import Golden, Model, close, model, read


@pytest.fixture(scope="module")
def ours() -> Model:
    return model()


def of_clips(x: Tensor, clips: int) -> Tensor:
    return rearrange(x, "(b t) ... -> b t ...", b=clips)


class Seen:
    """What a module gave when it was last called."""

    def __init__(self, module: nn.Module) -> None:
        self.handle = module.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: object, output: Tensor) -> None:
        self.output = output


# --- UNet ---------------------------------------------------------------------------------------


def unet_condition(golden: Golden) -> Condition:
    clips, latent = golden.metadata["batch"], golden.metadata["config"]["out_channels"]
    return Condition(
        image=of_clips(golden["input.x"][:, latent:], clips),
        context=of_clips(golden["input.context"], clips)[:, 0],
        vector=golden["input.time_ids"],
    )


@pytest.mark.parametrize("case", ["", "_per_clip"])
def test_unet(ours: Model, case: str) -> None:
    golden = read("unet")
    clips, latent = golden.metadata["batch"], golden.metadata["config"]["out_channels"]
    x = of_clips(golden["input.x"][:, :latent], clips)
    c_noise = of_clips(golden[f"input.timesteps{case}"], clips)[:, 0]
    out = ours.unet(x, c_noise, unet_condition(golden))
    close(out.flatten(0, 1), golden[f"output.out{case}"], 5e-5)


def test_inside_the_unet(ours: Model) -> None:
    golden = read("unet")
    clips, latent = golden.metadata["batch"], golden.metadata["config"]["out_channels"]
    first = ours.unet.down[0]
    seen = {
        "time_embed": Seen(ours.unet.time_embedding),
        "label_emb": Seen(ours.unet.vector_embedding),
        "input_blocks.1.0": Seen(first.resnets[0]),
        "input_blocks.1.1": Seen(first.transformers[0]),
        "middle_block": Seen(ours.unet.middle),
    }
    x = of_clips(golden["input.x"][:, :latent], clips)
    c_noise = of_clips(golden["input.timesteps"], clips)[:, 0]
    ours.unet(x, c_noise, unet_condition(golden))
    for name, module in seen.items():
        module.handle.remove()
        stored = golden[f"intermediate.{name}"]
        if len(module.output) != len(stored):  # ours are one a clip
            stored = of_clips(stored, clips)[:, 0]
        close(module.output, stored, 5e-5)


def test_vector_sinusoids() -> None:
    golden = read("unet")
    dim, ids = golden.metadata["time_id_embedding_dim"], golden["input.time_ids"]
    ours = sinusoid(ids.flatten(), dim).view(len(ids), -1)
    close(ours, of_clips(golden["input.vector"], len(ids))[:, 0], 2e-5)


# --- VAE ----------------------------------------------------------------------------------------


def test_vae_encodes(ours: Model) -> None:
    golden = read("vae")
    close(to_pixels([golden["input.image_uint8"].numpy()]), golden["input.image"], 0)
    moments = ours.vae.encode(golden["input.image"])
    close(moments, golden["output.moments"], 5e-5)
    close(moments.chunk(2, dim=1)[0], golden["output.latent"], 5e-5)


def test_vae_decodes(ours: Model) -> None:
    golden = read("vae")
    close(ours.vae.decode(golden["input.latents"][None])[0], golden["output.frames"], 5e-5)
    clips = of_clips(golden["input.latents_batch"], golden.metadata["batch_num_clips"])
    close(ours.vae.decode(clips).flatten(0, 1), golden["output.frames_batch"], 5e-5)


# --- image encoder ------------------------------------------------------------------------------


def test_image_encoder(ours: Model) -> None:
    golden = read("clip")
    for case in golden.metadata["cases"]:
        image = to_pixels([golden[f"preprocess.{case}.image_uint8"].numpy()])
        pixels = preprocess(image, golden.metadata["config"]["image_size"])
        close(pixels, golden[f"preprocess.{case}.output"], 1e-4)
        close(ours.image_encoder(image)[:, 0], golden[f"output.embedding.{case}"], 5e-5)


# --- pipeline -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run() -> Golden:
    return read("pipeline")


@pytest.fixture(scope="module")
def condition(ours: Model, run: Golden) -> Condition:
    setting = run.metadata["config"]
    return Pipeline(ours.networks()).encode(
        to_pixels([run["input.image_uint8"].numpy()]),
        fps=torch.tensor([setting["fps_id"] + 1.0]),
        motion=torch.tensor([float(setting["motion_bucket_id"])]),
        noise_aug=torch.tensor([float(setting["cond_aug"])]),
        pixel_noise=run["input.pixel_noise"],
    )


def test_condition(ours: Model, run: Golden, condition: Condition) -> None:
    dim = run.metadata["time_id_embedding_dim"]
    for kind, told in (("cond", condition), ("uncond", condition.unconditional())):
        close(told.image[0].expand_as(run[f"{kind}.concat"]), run[f"{kind}.concat"], 5e-5)
        close(told.context.expand_as(run[f"{kind}.crossattn"]), run[f"{kind}.crossattn"], 5e-5)
        vector = sinusoid(told.vector.flatten(), dim).view(1, -1)
        close(vector.expand_as(run[f"{kind}.vector"]), run[f"{kind}.vector"], 5e-5)


def test_pipeline(ours: Model, run: Golden, condition: Condition) -> None:
    setting = run.metadata["config"]
    pipe = Pipeline(ours.networks())
    scale = torch.linspace(setting["min_scale"], setting["max_scale"], setting["num_frames"])[None]
    noise = run["input.latent_noise"][None]
    walk = list(pipe.sample(condition, noise, steps=setting["num_steps"], guidance=scale))
    states = torch.stack([step.x[0] for step in walk])
    denoised = torch.stack([step.denoised[0] for step in walk])
    close(states, run["latents.states"][1:], 2e-4, 1e-5)
    close(states[-1], run["latents.states"][-1], 2e-4)
    close(denoised, run["latents.denoised"], 2e-4)

    whole, *chunks = setting["decoding_t"]
    assert whole == setting["num_frames"]
    frames = torch.cat(list(pipe.decode(walk[-1].x)), dim=1)[0]
    close(frames, run["frames.all"], 1e-4)
    close(((frames + 1) / 2).clamp(0, 1), run["video.all"], 1e-4)
    for chunk in chunks:
        frames = torch.cat(list(pipe.decode(walk[-1].x, chunk)), dim=1)[0]
        close(frames, run[f"frames.chunk{chunk}"], 1e-4)


def test_first_step_before_guidance(ours: Model, run: Golden, condition: Condition) -> None:
    """Guided by 0 the sampler follows the unconditional half, by 1 the conditional one."""
    setting = run.metadata["config"]
    pipe, frames = Pipeline(ours.networks()), setting["num_frames"]
    stored = run["first_step.denoised_uncond_cond"].unflatten(0, (2, frames))
    for scale, half in ((0.0, stored[0]), (1.0, stored[1])):
        noise, guidance = run["input.latent_noise"][None], torch.full((1, frames), scale)
        steps = pipe.sample(condition, noise, steps=setting["num_steps"], guidance=guidance)
        close(next(steps).denoised[0], half, 5e-5)
