"""Programs written for DiffSynth-Studio 1.x run through our door."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kinora.clip import Clip
from kinora.compat.diffsynth import (
    ModelManager,
    SVDVideoPipeline,
    VideoData,
    save_frames,
    save_video,
)
from kinora.compat.diffsynth.latents import decode_overlapping, encode_frames, equalise
from kinora.compat.place import place
from kinora.diffusion import guided, karras
from kinora.errors import CheckpointError, DeviceError, KinoraWarning, MediaError, RequestError
from kinora.pixels import quantise, to_pixels
from tests import parity
from tests.checkpoints import write_own
from tests.swift import SWIFT

SMALL: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 3, "num_inference_steps": 2}
PLAIN: dict[str, Any] = {"post_normalize": False, "contrast_enhance_scale": 1.0}


def photo(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """Smooth colours, with some grain."""
    rows, columns = np.mgrid[0:height, 0:width] / 64
    colours = np.stack([rows, columns, 0.5 + 0.5 * np.sin((9 + seed) * rows * columns)], axis=2)
    grain = 0.1 * np.random.default_rng(seed).standard_normal((height, width, 1))
    return Image.fromarray(((colours + grain).clip(0, 1) * 255).astype(np.uint8))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, but of a contrast that differences show in."""
    folder = tmp_path_factory.mktemp("tiny")
    return parity.write_own(folder / "tiny.safetensors", parity.SMALL)


@pytest.fixture(scope="module")
def pipe(tiny: Path) -> SVDVideoPipeline:
    return SVDVideoPipeline.from_model_manager(ModelManager(device="cpu", file_path_list=[tiny]))


def run(pipe: SVDVideoPipeline, **values: Any) -> np.ndarray:  # noqa: ANN401
    frames = pipe(**({"input_image": photo(), "seed": 0} | SMALL | values))
    return np.stack([np.asarray(frame) for frame in frames])


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_a_call_is_the_euler_walk_of_our_pipeline_with_the_latents_treated(
    pipe: SVDVideoPipeline,
) -> None:
    generator = torch.Generator().manual_seed(7)
    inner = pipe.pipeline
    noise = torch.randn((1, 3, 4, 8, 12), generator=generator)
    condition = inner.encode(
        to_pixels([np.asarray(photo())]),
        fps=torch.tensor([7.0]),
        motion=torch.tensor([127.0]),
        noise_aug=torch.tensor([0.02]),
        pixel_noise=torch.randn((1, 3, 32, 48), generator=generator),
    )
    guidance = torch.linspace(1, 3, 3)[None]
    *_, last = inner.sample(condition, noise, steps=2, guidance=guidance)
    for values, latents in (
        (PLAIN, last.x),
        (PLAIN | {"post_normalize": True}, equalise(last.x)),
        ({}, equalise(last.x) * 1.2),
    ):
        expected = quantise(decode_overlapping(inner, latents))[0]
        assert apart(run(pipe, seed=7, **values), expected) <= 1


def test_equalised_frames_have_the_clip_s_mean_and_deviation() -> None:
    latents = torch.randn((1, 5, 4, 6, 8)) * torch.rand((1, 5, 1, 1, 1)) + torch.rand(1, 5, 1, 1, 1)
    even = equalise(latents)
    assert torch.allclose(even.mean(dim=(2, 3, 4)), latents.mean().expand(1, 5), atol=1e-5)
    assert torch.allclose(even.std(dim=(2, 3, 4)), latents.std().expand(1, 5), atol=1e-5)
    assert torch.allclose(equalise(even), even, atol=1e-2)


def test_a_seed_repeats_a_clip_and_without_one_torch_s_own_is_used(pipe: SVDVideoPipeline) -> None:
    assert np.array_equal(run(pipe, seed=3), run(pipe, seed=3))
    assert apart(run(pipe, seed=3), run(pipe, seed=4)) > 1
    clips: list[np.ndarray] = []
    for _ in range(2):
        torch.manual_seed(3)
        clips.append(run(pipe, seed=None))
    assert np.array_equal(*clips)
    assert np.array_equal(clips[0], run(pipe, seed=3))


def test_encoded_frames_have_the_size_that_the_sampler_wants(pipe: SVDVideoPipeline) -> None:
    """Not 0.13025 / 0.18215 of it."""
    inner = pipe.pipeline
    with torch.no_grad():
        mode, _ = inner.vae.encode(to_pixels([np.asarray(photo())])).chunk(2, dim=1)
        latents = encode_frames(inner, [photo()])
    assert torch.allclose(latents, mode * inner.config.vae.scale, atol=1e-6)


def test_a_little_denoising_keeps_a_video_and_much_does_not(pipe: SVDVideoPipeline) -> None:
    video = [photo(seed=s) for s in (1, 2, 3)]
    with torch.no_grad():
        latents = encode_frames(pipe.pipeline, video)[None]
        kept = quantise(decode_overlapping(pipe.pipeline, latents))[0]
    errors = [
        np.abs(run(pipe, input_video=video, denoising_strength=s, **PLAIN) - 1.0 * kept).mean()
        for s in (0.0, 0.1, 0.9)
    ]
    assert errors[0] < errors[1] < errors[2]
    assert errors[0] < errors[2] / 4


def test_levels_of_a_partial_denoising_are_the_end_of_the_whole_schedule() -> None:
    from kinora.compat.diffsynth.call import checked

    numbers = {"fps": 7, "motion_bucket_id": 127, "noise_aug_strength": 0.02}
    call = checked(
        SWIFT,
        height=64,
        width=64,
        num_frames=2,
        num_inference_steps=6,
        denoising_strength=0.5,
        cfg_scale=(1, 3),
        contrast_enhance_scale=1.2,
        **numbers,
    )
    whole = karras(11, SWIFT.sigma_min, SWIFT.sigma_max)
    assert call.sigmas == pytest.approx(whole[5:])
    assert all(high > low for high, low in pairwise(call.sigmas))


def test_keyframes_are_put_back_before_every_step(
    pipe: SVDVideoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: list[tuple[float, torch.Tensor]] = []

    def watched(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        denoise = guided(*arguments, **options)

        def look(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            inputs.append((float(sigma[0]), x))
            return denoise(x, sigma)

        return look

    monkeypatch.setattr("kinora.compat.diffsynth.pipeline.guided", watched)
    key = photo(seed=5)
    run(pipe, mask_frames=[key], mask_frame_ids=[2], num_inference_steps=3)
    with torch.no_grad():
        clean = encode_frames(pipe.pipeline, [key])[0]
    assert len(inputs) == 3
    noise = [(x[0, 2] - clean) / sigma for sigma, x in inputs]
    assert torch.allclose(noise[0], noise[1], atol=1e-3)
    assert 0.8 < noise[0].std() < 1.2
    sigma, x = inputs[-1]
    assert torch.allclose(x[0, 2], clean, atol=5 * sigma)
    assert not torch.allclose(x[0, 1], clean, atol=0.1)


def test_windows_fade_into_each_other_and_short_clips_are_decoded_whole(
    pipe: SVDVideoPipeline,
) -> None:
    inner = pipe.pipeline
    latents = torch.randn((1, 18, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    faded = decode_overlapping(inner, latents)
    first = next(inner.decode(latents[:, :8]))
    second = next(inner.decode(latents[:, 4:12]))
    assert faded.shape == (1, 18, 3, 32, 32)
    assert torch.allclose(faded[:, :4], first[:, :4], atol=1e-5)
    share = (4 - torch.arange(4.0))[:, None, None, None] / 5
    expected = share * first[:, 4:8] + (1 - share) * second[:, :4]
    assert not torch.allclose(first[:, 4:8], second[:, :4], atol=1e-3)
    assert torch.allclose(faded[:, 4:8], expected, atol=1e-5)
    short = latents[:, :8]
    assert torch.allclose(decode_overlapping(inner, short), next(inner.decode(short)), atol=1e-6)


def test_photos_of_any_size_and_mode_are_cropped_to_the_clip(pipe: SVDVideoPipeline) -> None:
    wide = Image.new("RGB", (148, 32), "red")
    wide.paste(photo(), (50, 0))
    assert np.array_equal(run(pipe, input_image=wide), run(pipe))
    assert run(pipe, input_image=photo(99, 50).convert("RGBA")).shape == (3, 32, 48, 3)


def test_sizes_are_rounded_up_with_a_warning(pipe: SVDVideoPipeline) -> None:
    with pytest.warns(KinoraWarning, match="size 45x30: made 48x32"):
        assert run(pipe, width=45, height=30).shape == (3, 32, 48, 3)


def test_progress_is_told(pipe: SVDVideoPipeline) -> None:
    seen: list[object] = []

    class Bar:
        def progress(self, value: float) -> None:
            seen.append(value)

    def command(steps: Iterable[Any]) -> Iterable[Any]:
        for step in steps:
            seen.append("step")
            yield step

    run(pipe, progress_bar_cmd=command, progress_bar_st=Bar())
    assert seen == ["step", 0.0, "step", 0.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input_image": None}, "input_image"),
        ({"num_frames": 0}, "frames 0"),
        ({"num_inference_steps": 0}, "steps 0"),
        ({"height": 0}, "size"),
        ({"denoising_strength": 1.5}, "denoising_strength 1.5"),
        ({"denoising_strength": 0.5}, "input_video: 0 frames where 3"),
        ({"denoising_strength": 0.5, "input_video": [photo()]}, "input_video: 1 frames where 3"),
        ({"mask_frame_ids": [0]}, "mask_frames: 0 frames where 1"),
        ({"mask_frame_ids": [3], "mask_frames": [photo()]}, "mask_frame_ids"),
        ({"contrast_enhance_scale": float("inf")}, "contrast_enhance_scale"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_the_value(
    pipe: SVDVideoPipeline, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        run(pipe, **values)


def test_a_manager_holds_one_model(tiny: Path) -> None:
    manager = ModelManager(device="cpu")
    with pytest.raises(CheckpointError, match="holds no model"):
        SVDVideoPipeline.from_model_manager(manager)
    manager.load_models([str(tiny)])
    with pytest.raises(CheckpointError, match="parity-small is loaded already"):
        manager.load_model(tiny)
    manager.to("cpu")
    assert SVDVideoPipeline.from_model_manager(manager).pipeline.device.type == "cpu"
    with pytest.raises(DeviceError):
        manager.to("cuda:99")
    half = ModelManager(torch.bfloat16, "cpu", file_path_list=[tiny]).pipeline
    assert half is not None
    assert half.dtype == torch.bfloat16
    place(half, dtype=torch.float32)


@pytest.mark.parametrize("name", ["scheduler", "unet", "vae_decoder", "image_encoder"])
def test_what_would_be_ignored_is_refused(pipe: SVDVideoPipeline, name: str) -> None:
    with pytest.raises(RequestError, match=rf"{name}: a call never asks for it here"):
        setattr(pipe, name, object())
    with pytest.raises(RequestError, match="Own overrides encode_image_with_vae"):
        type("Own", (SVDVideoPipeline,), {"encode_image_with_vae": None})


def test_offloading_has_networks_on_the_device_in_turns(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = ModelManager(device="cpu", file_path_list=[tiny])
    pipe = SVDVideoPipeline.from_model_manager(manager)
    pipe.enable_cpu_offload()
    residency = pipe.pipeline.residency
    assert residency.least == {"turns": True}
    assert np.array_equal(run(pipe), run(SVDVideoPipeline(pipe.pipeline)))
    assert residency.held == residency.total, "on a CPU, where weights are anyway, they stay"


def test_models_go_by_the_names_that_diffsynth_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load(source: str, device: object, dtype: object) -> None:
        asked.append(source)

    monkeypatch.setattr("kinora.compat.diffsynth.manager.load", load)
    ModelManager(model_id_list=["stable-video-diffusion-img2vid-xt", "nano"])
    assert asked == ["stabilityai/stable-video-diffusion-img2vid-xt", "nano"]


def test_videos_come_back_as_sequences_of_frames(tmp_path: Path, pipe: SVDVideoPipeline) -> None:
    frames = [photo(seed=s) for s in range(12)]
    save_frames(frames, tmp_path / "frames")
    video = VideoData(image_folder=tmp_path / "frames")
    assert len(video) == 12
    assert video.shape() == (32, 48)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(video.raw_data(), frames, strict=True))
    video.set_length(3)
    video.set_shape(64, 32)
    assert [frame.size for frame in video.raw_data()] == [(32, 64)] * 3
    assert run(pipe, input_video=video, denoising_strength=0.5).shape == (3, 32, 48, 3)
    save_video(frames, str(tmp_path / "video.mp4"), fps=15, quality=5)
    assert len(VideoData(video_file=str(tmp_path / "video.mp4"), height=32, width=48)) == 12
    with pytest.raises(MediaError, match="neither"):
        VideoData()


def test_the_program_of_diffsynth_s_guide_runs(tmp_path: Path) -> None:
    path = write_own(tmp_path / "swift.safetensors", SWIFT)
    image = photo(1024, 576)

    model_manager = ModelManager(model_id_list=[path])
    pipe = SVDVideoPipeline.from_model_manager(model_manager)
    video = pipe(
        input_image=image,
        num_frames=25,
        fps=15,
        height=576,
        width=1024,
        motion_bucket_id=127,
        num_inference_steps=50,
    )
    save_video(video, str(tmp_path / "output_video.mp4"), fps=15, quality=5)

    clip = Clip.open(tmp_path / "output_video.mp4")
    assert clip.frames.shape == (25, 576, 1024, 3)
    assert clip.fps == 15
    assert clip.recipe["door"] == "diffsynth"
    assert clip.recipe["request"]["contrast_enhance_scale"] == 1.2
