"""What the networks are, apart from any checkpoint."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kinora.config import NANO, SVD, SVD_XT, TINY, ModelConfig, UNetConfig, VAEConfig
from kinora.models import ImageEncoder, VideoAutoencoder, VideoUNet, preprocess
from kinora.models.attention import Context, SpaceTimeTransformer
from kinora.models.resnet import ResBlock, SpaceTimeResBlock, across_time
from kinora.types import Condition
from tests.tiny import enliven

DEAD = 50_389_760
"""Parameters of cross-attention that one context token makes useless (norm2, to_q, to_k)."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("config", [SVD, SVD_XT])
def test_the_published_models_have_the_published_sizes(config: ModelConfig) -> None:
    with torch.device("meta"):
        vae = VideoAutoencoder(config.vae)
        assert count(VideoUNet(config.unet)) == 1_524_623_082 - DEAD
        assert count(ImageEncoder(config.image_encoder)) == 632_076_800
    assert count(vae.encoder) + count(vae.quant_conv) == 34_163_664
    assert count(vae.decoder) == 63_579_183


def test_the_bundled_model_is_small() -> None:
    with torch.device("meta"):
        networks = (
            VideoUNet(NANO.unet),
            VideoAutoencoder(NANO.vae),
            ImageEncoder(NANO.image_encoder),
        )
    assert sum(map(count, networks)) <= 12_000_000


def test_a_convolution_over_frames_and_pixels_is_the_3d_one() -> None:
    conv = nn.Conv2d(6, 5, (3, 1), padding=(1, 0))
    x = torch.randn(2 * 4, 6, 3, 7)
    video = x.unflatten(0, (2, 4)).transpose(1, 2)
    expected = F.conv3d(video, conv.weight[..., None], conv.bias, padding=(1, 0, 0))
    ours = across_time(conv, x, frames=4).unflatten(0, (2, 4)).transpose(1, 2)
    torch.testing.assert_close(ours, expected)


def test_channels_last_video_is_viewed_not_copied() -> None:
    x = torch.randn(8, 6, 3, 7).contiguous(memory_format=torch.channels_last)
    seen: list[Tensor] = []

    def look(y: Tensor) -> Tensor:
        seen.append(y)
        return y

    back = across_time(look, x, frames=4)
    assert seen[0].data_ptr() == x.data_ptr() == back.data_ptr()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_attention_to_one_token_is_a_bias() -> None:
    """Context against full cross-attention, whatever the query and key weights are."""
    context = Context(context_dim=12, dim=16).double()
    token = torch.randn(2, 1, 12, dtype=torch.float64)
    query = torch.randn(2, 4, 9, 4, dtype=torch.float64)
    key = torch.randn(2, 4, 1, 4, dtype=torch.float64)
    value = context.value(token).unflatten(2, (4, 4)).transpose(1, 2)
    attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(context.out(attended), context(token).expand(2, 9, 16))


def test_blocks_in_time_never_mix_pixels() -> None:
    """A change of one pixel, in one frame, reaches no other pixel through the blocks in time."""
    config = TINY.unet
    block = SpaceTimeTransformer(32, 2, config.context_dim, groups=8)
    enliven(block)
    x, bias = torch.randn(6, 5, 32), torch.zeros(6, 1, 32)  # 6 pixels, 5 frames
    changed = x.clone()
    changed[2, 3] += 1
    difference = (block.time(changed, bias) - block.time(x, bias)).abs().amax((1, 2))
    assert (difference > 0).tolist() == [False, False, True, False, False, False]


def test_blocks_in_space_never_mix_frames() -> None:
    block = ResBlock(8, 8, groups=4, eps=1e-5)
    x = torch.randn(4, 8, 5, 5)
    changed = x.clone()
    changed[1] += torch.randn(8, 5, 5)
    difference = (block(changed) - block(x)).abs().amax((1, 2, 3))
    assert (difference > 0).tolist() == [False, True, False, False]


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_blend_weighs_space_in_the_unet_and_time_in_the_vae(sign: int) -> None:
    block = SpaceTimeResBlock(8, 8, groups=4, eps=(1e-5, 1e-5), mix=0.3, sign=sign)
    enliven(block)
    x = torch.randn(6, 8, 4, 4)
    space = block.space(x)
    time = across_time(block.time, space, 3)
    share = torch.tensor(sign * 0.3).sigmoid()
    torch.testing.assert_close(block(x, 3), share * time + (1 - share) * space)


def test_fresh_residual_blocks_are_the_identity() -> None:
    unet = VideoUNet(TINY.unet)
    x = torch.randn(4, 32, 4, 4)
    embedding = torch.randn(1, TINY.unet.embedding_dim)
    torch.testing.assert_close(unet.down[0].resnets[0](x, 4, embedding), x)
    context = torch.randn(1, 1, TINY.unet.context_dim)
    torch.testing.assert_close(
        unet.middle.transformer(y := torch.randn(4, 64, 4, 4), context, 4), y
    )


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(
            latent_channels=3,
            channels=(16, 48, 32),
            blocks=3,
            attention=(False, True, False),
            heads=(1, 3, 2),
            context_dim=20,
            vector_ids=2,
            vector_dim=6,
            norm_groups=4,
        ),
        UNetConfig(
            channels=(24,), blocks=1, attention=(True,), heads=(3,), context_dim=8, norm_groups=6
        ),
    ],
)
def test_any_shape_of_unet_runs(config: UNetConfig) -> None:
    unet, c = VideoUNet(config), config.latent_channels
    condition = Condition(
        torch.randn(2, 1, c, 8, 12),
        torch.randn(2, 1, config.context_dim),
        torch.rand(2, config.vector_ids),
    )
    x = torch.randn(2, 5, c, 8, 12)
    assert unet(x, torch.randn(2), condition).shape == x.shape


def test_any_shape_of_vae_runs() -> None:
    for temporal in (True, False):
        config = VAEConfig(
            latent_channels=5,
            channels=(8, 24),
            blocks=1,
            norm_groups=4,
            temporal_decoder=temporal,
        )
        vae = VideoAutoencoder(config)
        assert vae.encode(torch.randn(2, 3, 12, 20)).shape == (2, 10, 6, 10)
        assert vae.decode(torch.randn(2, 3, 5, 6, 10)).shape == (2, 3, 3, 12, 20)


def test_the_frame_wise_decoder_does_not_look_along_time() -> None:
    config = VAEConfig(channels=(8, 8), blocks=1, norm_groups=4, temporal_decoder=False)
    vae, latents = VideoAutoencoder(config), torch.randn(1, 4, 4, 3, 5)
    alone = torch.cat([vae.decode(latents[:, i : i + 1]) for i in range(4)], dim=1)
    torch.testing.assert_close(vae.decode(latents), alone)


@pytest.mark.parametrize("shape", [(224, 224), (64, 96), (500, 224), (1, 1), (230, 1000)])
def test_the_image_encoder_takes_any_size(shape: tuple[int, int]) -> None:
    pixels = preprocess(torch.zeros(1, 3, *shape))
    assert pixels.shape == (1, 3, 224, 224)
    flat = pixels.flatten(2)
    torch.testing.assert_close(flat, flat[..., :1].expand_as(flat))


def test_inconsistent_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry for each level"):
        UNetConfig(channels=(32, 64))
    with pytest.raises(ValueError, match="divisible"):
        UNetConfig(channels=(48, 48, 48, 48))
