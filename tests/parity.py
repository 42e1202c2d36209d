"""Random models in our classes and in diffusers', with the same weights, to be compared.

`benchmarks/parity.py` reports with these what the tests assert.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kinora.config import ImageEncoderConfig, ModelConfig, UNetConfig, VAEConfig
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet
from kinora.types import Condition
from kinora.weights import convert, save_networks
from kinora.weights.diffusers import diffusers_table, to_diffusers
from kinora.weights.folder_export import folder_configs
from kinora.weights.names import shapes

SCHEDULER_WARNING = "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
"""diffusers' scheduler makes NumPy arrays of tensors; no concern of ours."""

NETWORKS = ("unet", "vae", "image_encoder")

SMALL = ModelConfig(
    name="parity-small",
    frames=4,
    width=64,
    height=64,
    unet=UNetConfig(
        channels=(32, 64), attention=(True, False), heads=(2, 4), context_dim=32, vector_dim=32
    ),
    vae=VAEConfig(channels=(32, 32, 64)),
    image_encoder=ImageEncoderConfig(
        patch_size=32, width=32, layers=2, heads=2, mlp_width=64, output_dim=32
    ),
)

MID = ModelConfig(
    name="parity-mid",
    frames=6,
    width=128,
    height=128,
    unet=UNetConfig(
        channels=(64, 128, 256, 256),
        attention=(True, True, True, False),
        heads=(1, 2, 4, 4),
        context_dim=128,
        vector_dim=64,
    ),
    vae=VAEConfig(channels=(32, 64, 128, 128)),
    image_encoder=ImageEncoderConfig(width=128, layers=4, heads=4, mlp_width=512, output_dim=128),
)
"""The published shape, a fifth as wide."""


class Difference(NamedTuple):
    """How far apart two results are, and how large they are."""

    highest: float
    rms: float
    scale: float
    """Root mean square of the reference."""


def difference(ours: Tensor, theirs: Tensor) -> Difference:
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    apart = (ours.double() - theirs.double()).abs()
    return Difference(
        apart.max().item(),
        apart.square().mean().sqrt().item(),
        theirs.double().square().mean().sqrt().item(),
    )


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Every tensor that a diffusers folder can hold, dead ones included, by our names.

    Layers keep the size of what goes through them; none starts at zero.
    """
    generator = torch.Generator().manual_seed(seed)
    table = diffusers_table(config)
    return {n: draw(n, shape, generator) for n, shape in shapes(config).items() if n in table}


def draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A random tensor by our name of it."""
    noise = torch.randn(shape, generator=generator)
    if name.endswith(".mix"):
        return noise
    if len(shape) == 1:
        return 0.1 * noise + (1 if name.endswith(".weight") else 0)
    return noise / max(1, torch.Size(shape[1:]).numel()) ** 0.5


def ours(config: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Our three networks with these weights, by name."""
    built: dict[str, nn.Module] = {
        "unet": VideoUNet(config.unet),
        "vae": VideoAutoencoder(config.vae),
        "image_encoder": ImageEncoder(config.image_encoder),
    }
    for name, network in built.items():
        network.load_state_dict(part(tensors, name))
        network.requires_grad_(False).eval()
    return built


def theirs(config: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The same networks of diffusers and transformers, eps mended."""
    import diffusers
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    files = folder_configs(config, torch.float32)
    vae_class = getattr(diffusers, files["vae/config.json"]["_class_name"])
    encoder = {k: v for k, v in files["image_encoder/config.json"].items() if k != "torch_dtype"}
    built: dict[str, nn.Module] = {
        "unet": diffusers.UNetSpatioTemporalConditionModel.from_config(
            _settings(files["unet/config.json"])
        ),
        "vae": vae_class.from_config(_settings(files["vae/config.json"])),
        "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**encoder)),
    }
    states = to_diffusers(tensors, config)
    for name, network in built.items():
        network.load_state_dict(states[name])
        network.requires_grad_(False).eval()
    mend(built["unet"])
    return built


def mend(unet: nn.Module, eps: float = 1e-5) -> None:
    """Give the norms of diffusers' residual blocks the eps that the weights were trained with."""
    from diffusers.models.resnet import ResnetBlock2D, TemporalResnetBlock

    for module in unet.modules():
        if isinstance(module, ResnetBlock2D | TemporalResnetBlock):
            module.norm1.eps = module.norm2.eps = eps


def part(tensors: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    """The tensors of one network, without its name in front."""
    prefix = f"{network}."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def write_own(path: Path, config: ModelConfig, seed: int = 0) -> Path:
    """A file in our own format with a random model, dead tensors included."""
    tensors = random_tensors(config, seed)
    unused = {name: t for name, t in tensors.items() if name.startswith("unused.")}
    networks = {name: part(tensors, name) for name in NETWORKS}
    return save_networks(path, config, networks, unused=unused)


def write_folder(path: Path, config: ModelConfig, seed: int = 0) -> Path:
    """A folder in diffusers' layout with the same, by way of our own format."""
    source = write_own(path.with_suffix(".safetensors"), config, seed)
    convert(source, path, to="diffusers")
    source.unlink()
    return path


class UNetInputs(NamedTuple):
    """One call of the UNet."""

    x: Tensor
    c_noise: Tensor
    condition: Condition


def unet_inputs(
    config: UNetConfig, clips: int, frames: int, size: tuple[int, int], seed: int = 0
) -> UNetInputs:
    """size: rows and columns of the latents."""
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, frames, config.latent_channels, *size)
    ids = torch.tensor([[6.0, 127.0, 0.02], [11.0, 40.0, 0.1], [24.0, 255.0, 0.0]])
    return UNetInputs(
        x=torch.randn(shape, generator=generator),
        c_noise=torch.linspace(1.6, -1.5, clips) if clips > 1 else torch.tensor([0.7]),
        condition=Condition(
            image=torch.randn((clips, 1, *shape[2:]), generator=generator),
            context=torch.randn((clips, 1, config.context_dim), generator=generator),
            vector=ids[:clips],
        ),
    )


def run_theirs(unet: Any, inputs: UNetInputs) -> Tensor:  # noqa: ANN401
    """diffusers' UNet on the same inputs."""
    image = inputs.condition.image.expand(-1, inputs.x.shape[1], -1, -1, -1)
    with torch.no_grad():
        return unet(
            torch.cat([inputs.x, image], dim=2),
            inputs.c_noise,
            encoder_hidden_states=inputs.condition.context,
            added_time_ids=inputs.condition.vector,
            return_dict=False,
        )[0]


def run_ours(unet: VideoUNet, inputs: UNetInputs) -> Tensor:
    with torch.no_grad():
        return unet(*inputs)


def _settings(file: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in file.items() if not key.startswith("_")}


def diffusers_pipeline(folder: Path) -> Any:  # noqa: ANN401
    """diffusers' own pipeline of a folder, eps mended, silent."""
    from diffusers import StableVideoDiffusionPipeline

    pipeline = StableVideoDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    mend(pipeline.unet)
    return pipeline
