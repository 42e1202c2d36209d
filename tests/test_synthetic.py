"""Clips made from nothing: what a seed means, and that the labels tell the truth."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinora.errors import RequestError
from kinora.synthetic import ClipBatch, SceneConfig, make_clips

SMALL = SceneConfig(width=48, height=40, frames=5, shapes=60)
PAN = replace(
    SMALL,
    layers=1,
    kinds=(1.0, 0.0, 0.0),
    objects=0.0,
    static=0.0,
    margin=0.4,
    motion=(150.0, 255.0),
    fps=(5,),
)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean() / 4))


def moved_back(clips: ClipBatch, factor: float) -> tuple[Tensor, Tensor]:
    """The last frame, and frame 0 moved there by the tracks times a factor; middles only."""
    height, width = clips.frames.shape[-2:]
    x, y = torch.arange(width) + 0.5, (torch.arange(height) + 0.5)[:, None]
    shift = clips.tracks.shift[:, 0, -1, None, None] * factor
    scale = 1 + (clips.tracks.scale[:, 0, -1, None, None] - 1) * factor
    at = torch.complex((x / width - 0.5).expand(height, width), (y - height / 2) / width + 0 * x)
    at = (at - shift) / scale
    grid = torch.stack([2 * at.real, 2 * at.imag * width / height], -1)
    guess = F.grid_sample(clips.frames[:, 0], grid, mode="bicubic", align_corners=False)
    return clips.frames[:, -1, :, 12:-12, 12:-12], guess[..., 12:-12, 12:-12]


def test_same_seed_gives_the_same_clips_and_another_seed_others() -> None:
    first, again, other = (make_clips(SMALL, 3, seed) for seed in (1, 1, 2))
    for a, b in zip((*first[:4], first.flow), (*again[:4], again.flow), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.frames, other.frames)
    assert not torch.equal(first.frames[0], first.frames[1])


@pytest.mark.parametrize("layers", [1, 3])
def test_frame_0_moved_by_the_flow_is_the_last_frame(layers: int) -> None:
    """But for what was hidden; standing still is far from it."""
    clips = make_clips(replace(SMALL, layers=layers, motion=(200.0, 255.0), static=0.0), 16, 7)
    height, width = clips.frames.shape[-2:]
    assert not clips.flow[:, 0].any()
    flow = F.interpolate(clips.flow[:, -1], (height, width), mode="bilinear").permute(0, 2, 3, 1)
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    at = torch.stack([(x / width - 0.5).expand(height, width),
                      ((y - height / 2) / width)[:, None].expand(height, width)], -1)  # fmt: skip
    grid = 2 * (at - flow) * torch.tensor([1.0, width / height])
    guess = F.grid_sample(clips.frames[:, 0], grid, mode="bicubic", align_corners=False)
    first, last, guess = (
        f[..., 8:-8, 8:-8] for f in (clips.frames[:, 0], clips.frames[:, -1], guess)
    )
    error = [(last - f).abs().mean((1, 2, 3)).median() for f in (guess, first)]
    assert error[0] < 0.4 * error[1]


def test_simple_scenes_pan_evenly_along_a_side() -> None:
    clips = make_clips(replace(PAN, simple=True, kinds=(0.0, 0.5, 0.5)), 16, 7)
    assert torch.allclose(clips.tracks.scale, torch.ones(()).to(torch.complex64))
    shift = torch.view_as_real(clips.tracks.shift[:, 0])
    assert (shift.abs().min(2).values < 1e-6).all()
    steps = shift.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-3, atol=1e-6)
    ways = {tuple(way) for way in shift[:, -1].sign().where(shift[:, -1].abs() > 1e-6, 0).tolist()}
    assert ways == {(0, 1), (0, -1), (1, 0), (-1, 0)}


def test_drawing_clips_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    make_clips(SMALL, 1, 0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("width", "height", "frames", "layers"),
    [(64, 64, 8, 3), (33, 17, 1, 2), (16, 50, 2, 1), (40, 24, 3, 5)],
)
def test_any_size_gives_frames_in_range(width: int, height: int, frames: int, layers: int) -> None:
    config = SceneConfig(width=width, height=height, frames=frames, layers=layers)
    clips = make_clips(config, 4, 0)
    assert clips.frames.shape == (4, frames, 3, height, width)
    assert clips.frames.min() >= -1
    assert clips.frames.max() <= 1
    assert clips.frames.std() > 0.1
    assert all(fps in config.fps for fps in clips.fps.tolist())


def test_nothing_moves_at_motion_zero() -> None:
    clips = make_clips(replace(SMALL, motion=(0.0, 0.0)), 4, 3)
    assert torch.equal(clips.motion, torch.zeros(4))
    assert torch.equal(clips.frames, clips.frames[:, :1].expand_as(clips.frames))


def test_first_frame_does_not_depend_on_the_motion() -> None:
    still, slow, fast = (
        make_clips(replace(SMALL, motion=(m, m)), 6, 4).frames for m in (0.0, 30.0, 250.0)
    )
    assert torch.equal(still[:, 0], slow[:, 0])
    assert torch.equal(still[:, 0], fast[:, 0])
    assert not torch.equal(slow[:, 1], fast[:, 1])


def test_motion_is_the_one_asked_for_and_is_spread_evenly() -> None:
    exact = make_clips(replace(SMALL, motion=(180.0, 180.0), static=0.0), 24, 5)
    assert (exact.motion - 180).abs().max() < 1
    drawn = make_clips(replace(SMALL, frames=2, shapes=10), 200, 5).motion
    counts = torch.histc(drawn, 4, 0, 255)
    assert counts.min() > 30


def test_motion_and_speed_are_the_same_label() -> None:
    clips = make_clips(SMALL, 16, 6)
    assert torch.allclose(clips.motion, 255 * clips.speed / SMALL.max_speed, atol=1)


def test_speed_of_one_layer_is_the_way_of_its_pixels_by_the_clock() -> None:
    clips = make_clips(replace(PAN, frames=6, fps=(5, 8), kinds=(0.4, 0.3, 0.3)), 12, 7)
    x, y = torch.arange(480) / 480 - 0.5, (torch.arange(400)[:, None] / 400 - 0.5) * 40 / 48
    at = torch.complex(x.expand(400, 480), y.expand(400, 480))
    scale, shift = (value[:, 0, :, None, None] for value in clips.tracks)
    origin = (at - shift[:, :-1]) / scale[:, :-1]
    way = (origin * scale[:, 1:] + shift[:, 1:] - at).abs().mean((1, 2, 3))
    assert torch.allclose(way * clips.fps, clips.speed, rtol=0.02)


def test_pixels_move_as_far_as_the_label_says() -> None:
    clips = make_clips(PAN, 8, 8)
    exact = psnr(*moved_back(clips, 1.0))
    assert exact > 22
    assert exact > psnr(*moved_back(clips, 0.0)) + 6
    assert exact > psnr(*moved_back(clips, 0.85)) + 2
    assert exact > psnr(*moved_back(clips, 1.15)) + 2


def test_a_faster_frame_rate_shows_smaller_steps() -> None:
    def change(fps: int) -> float:
        clips = make_clips(
            replace(SMALL, fps=(fps,), motion=(100.0, 100.0), static=0.0), 12, 9
        ).frames
        return float((clips[:, 1:] - clips[:, :-1]).abs().mean())

    assert change(24) < 0.8 * change(5)


def test_all_frames_are_equally_sharp() -> None:
    config = replace(SMALL, width=64, height=64, frames=8, motion=(60.0, 255.0))
    frames = make_clips(config, 48, 10).frames.mean(2)
    steps = (frames[..., 1:] - frames[..., :-1]).square().mean((0, 2, 3))
    assert (steps / steps[0] - 1).abs().max() < 0.1


def test_brightness_falls_off_with_frequency_as_in_photos() -> None:
    """Power about as 1/f² to 1/f³, and steps with much heavier tails than a normal's."""
    config = SceneConfig(frames=1)
    grey = make_clips(config, 64, 11).frames[:, 0].mean(1)
    window = torch.hann_window(64)
    spectrum = torch.fft.fft2((grey - grey.mean((1, 2), keepdim=True)) * window * window[:, None])
    power = spectrum.abs().square().mean(0)
    f = (torch.arange(64) + 32) % 64 - 32
    radius = torch.sqrt((f**2 + f[:, None] ** 2).float()).round()
    low, high = (power[radius == k].mean().log() for k in (3, 24))
    slope = float((high - low) / torch.log(torch.tensor(24 / 3)))
    assert -3.3 < slope < -2.0
    step = grey[..., 1:] - grey[..., :-1]
    assert (step**4).mean() / (step**2).mean() ** 2 > 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 0},
        {"frames": 0},
        {"motion": (10.0, 300.0)},
        {"max_speed": 0.0},
        {"fps": ()},
        {"objects": 1.5},
        {"kinds": (0.0, 0.0, 0.0)},
    ],
)
def test_a_wrong_config_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RequestError, match="synthetic scenes"):
        SceneConfig(**wrong)


def test_nothing_stays_on_the_cpu_when_clips_are_made_elsewhere() -> None:
    """The meta device computes no values, but refuses to mix devices as an accelerator does."""
    clips = make_clips(replace(SMALL, shapes=10), 3, 0, device="meta")
    assert {value.device.type for value in (*clips[:4], *clips.tracks)} == {"meta"}
