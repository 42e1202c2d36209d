"""What is prepared to run gives what the plain networks give."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from kinora.config import NANO, TINY, ModelConfig, UNetConfig, VAEConfig
from kinora.models import VideoAutoencoder, VideoUNet
from kinora.runtime import PreparedUNet, Reusing, decode
from kinora.runtime import unet as runtime_unet
from kinora.types import Condition
from tests.tiny import enliven

MID = replace(
    TINY,
    unet=UNetConfig(
        channels=(64, 128, 128),
        attention=(True, True, False),
        heads=(2, 4, 4),
        context_dim=32,
        vector_dim=32,
    ),
    vae=VAEConfig(channels=(32, 64, 64)),
)
"""Two blocks a level, 32 norm groups, as in the published models."""

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.01}
"""For values of about unit size: some roundings, one after the other."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def lively(network: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Random weights in which every layer and blend has a say."""
    enliven(network)
    for name, parameter in network.named_parameters():
        if name.endswith("mix"):
            nn.init.normal_(parameter)
    return network.to(dtype).eval().requires_grad_(False)


def told(config: UNetConfig, clips: int, dtype: torch.dtype, sides: tuple[int, int]) -> Condition:
    return Condition(
        torch.randn(clips, 1, config.latent_channels, *sides).to(dtype),
        torch.randn(clips, 1, config.context_dim).to(dtype),
        torch.tensor([6.0, 127.0, 0.02]).repeat(clips, 1),
    )


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("config", [TINY, MID, NANO], ids=["tiny", "mid", "nano"])
def test_a_prepared_unet_is_the_plain_one(config: ModelConfig, dtype: torch.dtype) -> None:
    plain = lively(VideoUNet(config.unet), dtype)
    plain.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    running = PreparedUNet(plain)
    x = torch.randn(2, 3, config.unet.latent_channels, 8, 16)
    noise = torch.tensor([0.3, -1.0])
    condition = told(config.unet, 4, dtype, (8, 16))
    expected = plain(x, noise, condition).float()
    found = running(x, noise, condition).float()
    scale = expected.abs().max()
    assert ((found - expected).abs().max() / scale).item() <= TOLERANCE[dtype]


def test_what_is_kept_of_a_clip_is_not_used_for_another() -> None:
    plain = lively(VideoUNet(TINY.unet))
    running = PreparedUNet(plain)
    for frames, sides in ((2, (4, 4)), (3, (4, 4)), (3, (8, 4))):
        condition = told(TINY.unet, 1, torch.float32, sides)
        x = torch.randn(1, frames, 4, *sides)
        for level in (0.3, -1.0):
            noise = torch.tensor([level])
            torch.testing.assert_close(running(x, noise, condition), plain(x, noise, condition))


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_unet_parted_anywhere_among_its_last_blocks_is_the_unet(left: int) -> None:
    unet = lively(VideoUNet(MID.unet))
    told = unet.embed(torch.zeros(2), torch.ones(2, 3)), torch.randn(2, 1, 32), 3
    x = torch.randn(6, 64, 8, 8)
    inner, skips = unet.inner(x, *told, left)
    assert len(skips) == left
    torch.testing.assert_close(unet.outer(inner, skips, *told), unet.trunk(x, *told))


@pytest.mark.parametrize("outer", [1, 2, 3])
def test_what_inner_blocks_gave_is_used_again(monkeypatch: pytest.MonkeyPatch, outer: int) -> None:
    """Where nothing has changed since they were computed, nothing changes; and they don't run."""
    monkeypatch.setattr(runtime_unet, "OUTER", outer)
    prepared = PreparedUNet(lively(VideoUNet(MID.unet)))
    runs: list[str] = []
    prepared.unet.middle.register_forward_hook(lambda *_: runs.append("middle"))
    reusing = Reusing(prepared, every=3)
    x, noise = torch.randn(1, 2, 4, 8, 8), torch.tensor([0.3])
    conditions = [told(MID.unet, clips, torch.float32, (8, 8)) for clips in (1, 2)]
    for _ in range(4):
        for condition in conditions:
            torch.testing.assert_close(reusing(x, noise, condition), prepared(x, noise, condition))
    assert len(runs) == len(conditions) * (2 + 4)

    fresh, kept = prepared(x + 1, noise, conditions[0]), reusing(x + 1, noise, conditions[0])
    assert (fresh - kept).abs().max() > 1e-4, "the inner blocks have a say"
    assert (kept - prepared(x, noise, conditions[0])).abs().max() > 1e-4, "so have the outer ones"


def test_preparing_changes_no_weight() -> None:
    plain = lively(VideoUNet(TINY.unet))
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    running = PreparedUNet(plain)
    running(torch.randn(1, 2, 4, 4, 4), torch.zeros(1), told(TINY.unet, 1, torch.float32, (4, 4)))
    after = plain.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("temporal", [True, False])
@pytest.mark.parametrize("keep", [0, 10_000, 1 << 40], ids=["twice", "some twice", "once"])
@pytest.mark.parametrize("config", [TINY, MID, NANO], ids=["tiny", "mid", "nano"])
def test_a_clip_decoded_in_tiles_is_the_clip(
    config: ModelConfig, keep: int, temporal: bool
) -> None:
    vae = lively(VideoAutoencoder(replace(config.vae, temporal_decoder=temporal)))
    latents = torch.randn(2, 3, config.vae.latent_channels, 5, 7)
    torch.testing.assert_close(
        decode(vae, latents, keep=keep, tile=5000), vae.decode(latents), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tiles_in_half_precision_are_within_its_rounding(dtype: torch.dtype) -> None:
    vae = lively(VideoAutoencoder(TINY.vae), dtype)
    latents = torch.randn(1, 3, 4, 5, 7)
    expected = vae.decode(latents).float()
    found = decode(vae, latents).float()
    assert (found - expected).abs().max() <= TOLERANCE[dtype] * expected.abs().max()
