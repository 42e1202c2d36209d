"""Programs written for diffusers run through our door and get diffusers' frames."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kinora.clip import Clip
from kinora.compat.diffusers import (
    StableVideoDiffusionPipeline,
    export_to_gif,
    export_to_video,
    load_image,
)
from kinora.errors import CheckpointError, KinoraWarning, MediaError, RequestError
from kinora.media import photo as media_photo
from kinora.media import read_video
from tests import parity
from tests.checkpoints import write_own
from tests.swift import SWIFT

pytestmark = pytest.mark.filterwarnings(parity.SCHEDULER_WARNING)

Generator = torch.Generator


def seeded(seed: int) -> Generator:
    return torch.Generator().manual_seed(seed)


def photo(width: int = 80, height: int = 52, seed: int = 0) -> Image.Image:
    """Smooth colours, with some grain."""
    rows, columns = np.mgrid[0:height, 0:width] / 64
    colours = np.stack([rows, columns, 0.5 + 0.5 * np.sin((9 + seed) * rows * columns)], axis=2)
    grain = 0.1 * np.random.default_rng(seed).standard_normal((height, width, 1))
    return Image.fromarray(((colours + grain).clip(0, 1) * 255).astype(np.uint8))


def tensor_photo() -> torch.Tensor:
    return torch.from_numpy(np.asarray(photo(224, 224)) / 255).permute(2, 0, 1)[None].float()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parity.write_folder(tmp_path_factory.mktemp("compat") / "model", parity.SMALL)


@pytest.fixture(scope="module")
def ours(folder: Path) -> StableVideoDiffusionPipeline:
    return StableVideoDiffusionPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:  # noqa: ANN401
    return parity.diffusers_pipeline(folder)


SMALL = {"height": 32, "width": 48, "num_frames": 3, "num_inference_steps": 2}
"""Arguments of a quick call; the width is the photo's, stretched."""


@pytest.mark.parametrize(
    "arguments",
    [
        {"generator": 1},
        {"generator": 2, "num_frames": 5, "decode_chunk_size": 2, "output_type": "np"},
        {"generator": 3, "fps": 12, "motion_bucket_id": 300, "noise_aug_strength": 0.3},
        {"generator": 4, "min_guidance_scale": 2.0, "max_guidance_scale": 2.0},
        {"generator": 5, "min_guidance_scale": 0.5, "max_guidance_scale": 1.0},
        {"generator": 6, "sigmas": [80.0, 9.0, 1.0, 0.0]},
        {"generator": 7, "output_type": "latent"},
        {"generator": [8, 9], "num_videos_per_prompt": 2},
        {"generator": 10, "num_videos_per_prompt": 2, "output_type": "pt"},
        {"latents": 11, "generator": 12},
        {},
    ],
)
def test_frames_are_those_of_diffusers(
    ours: StableVideoDiffusionPipeline,
    theirs: Any,  # noqa: ANN401
    arguments: dict[str, Any],
) -> None:
    assert_same_frames(ours, theirs, photo(), arguments)


@pytest.mark.parametrize("kind", ["list", "tensor", "shrunk", "enlarged"])
def test_frames_are_those_of_diffusers_for_any_kind_of_photo(
    ours: StableVideoDiffusionPipeline,
    theirs: Any,  # noqa: ANN401
    kind: str,
) -> None:
    image = {
        "list": [photo(), photo(seed=1)],
        "tensor": tensor_photo(),
        "shrunk": photo(300, 470),
        "enlarged": photo(20, 24),
    }[kind]
    assert_same_frames(ours, theirs, image, {"generator": 3, "output_type": "np"})


def assert_same_frames(
    ours: StableVideoDiffusionPipeline,
    theirs: Any,  # noqa: ANN401
    image: object,
    arguments: dict[str, Any],
) -> None:
    def frames(pipe: Any) -> Any:  # noqa: ANN401
        values = SMALL | arguments
        seeds = values.get("generator")
        if seeds is not None:
            seed_list = isinstance(seeds, list)
            values["generator"] = [seeded(s) for s in seeds] if seed_list else seeded(seeds)
        if "latents" in values:
            values["latents"] = torch.randn((1, 3, 4, 8, 12), generator=seeded(values["latents"]))
        torch.manual_seed(0)
        return pipe(image, **values).frames

    mine, reference = frames(ours), frames(theirs)
    if not isinstance(reference, list):
        tolerance = 1e-3 if arguments.get("output_type") == "latent" else 1 / 255
        assert type(mine) is type(reference)
        assert mine.dtype == reference.dtype
        assert mine.shape == reference.shape
        assert float(abs(mine - reference).max()) < tolerance
        return
    assert [len(clip) for clip in mine] == [len(clip) for clip in reference]
    for clip, other in zip(mine, reference, strict=True):
        for frame, expected in zip(clip, other, strict=True):
            assert frame.size == expected.size == (48, 32)
            assert np.asarray(frame).std() > 5, "a comparison of nothing with nothing"
            assert np.abs(np.int16(frame) - np.int16(expected)).max() <= 1


def test_a_callback_sees_and_replaces_latents_as_in_diffusers(
    ours: StableVideoDiffusionPipeline,
    theirs: Any,  # noqa: ANN401
) -> None:
    def run(pipe: Any) -> tuple[Any, list[tuple[int, float]]]:  # noqa: ANN401
        seen: list[tuple[int, float]] = []

        def halve(
            pipeline: object, step: int, timestep: torch.Tensor, tensors: dict[str, torch.Tensor]
        ) -> dict[str, torch.Tensor]:
            assert pipeline is pipe
            seen.append((step, round(float(timestep), 4)))
            return {"latents": tensors["latents"] * 0.5} if step == 0 else tensors

        values = SMALL | {"output_type": "np", "generator": seeded(0)}
        return pipe(photo(), **values, callback_on_step_end=halve).frames, seen

    (mine, my_steps), (reference, their_steps) = run(ours), run(theirs)
    assert my_steps == their_steps
    assert np.abs(mine - reference).max() < 1 / 255


def test_without_return_dict_the_frames_come_alone(ours: StableVideoDiffusionPipeline) -> None:
    frames = ours(photo(), **SMALL, output_type="np", return_dict=False)
    assert frames.shape == (1, 3, 32, 48, 3)
    output = ours(photo(), **SMALL, output_type="np")
    assert output.frames is output["frames"] is output[0]


def alone(pipe: StableVideoDiffusionPipeline, image: object, **values: Any) -> Any:  # noqa: ANN401
    return pipe(image, **(SMALL | {"output_type": "np"} | values)).frames


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK", "LA", "I;16"])
def test_photos_of_every_mode_are_taken(ours: StableVideoDiffusionPipeline, mode: str) -> None:
    grey = photo().convert("L")
    odd = Image.fromarray(np.asarray(grey, dtype=np.uint16) * 257) if mode == "I;16" else None
    other = odd or photo().convert(mode)
    frames = alone(ours, other, generator=seeded(0), num_frames=1)
    assert np.isfinite(frames).all()
    if mode in ("L", "I;16"):
        plain = alone(ours, grey.convert("RGB"), generator=seeded(0), num_frames=1)
        assert np.abs(frames - plain).max() < 1 / 255


def test_an_rgba_photo_is_seen_over_white(ours: StableVideoDiffusionPipeline) -> None:
    clear = Image.new("RGBA", (48, 32), (255, 0, 0, 0))
    white = Image.new("RGB", (48, 32), "white")
    first, second = (alone(ours, image, generator=seeded(0)) for image in (clear, white))
    assert np.array_equal(first, second)


def test_photos_of_different_sizes_make_a_batch(ours: StableVideoDiffusionPipeline) -> None:
    photos = [photo(80, 52), photo(33, 95, seed=1)]
    generators = [seeded(1), seeded(2)]
    together = alone(ours, photos, generator=generators)
    for clip, image, seed in zip(together, photos, (1, 2), strict=True):
        assert np.abs(clip - alone(ours, image, generator=seeded(seed))[0]).max() < 1 / 255


def test_one_frame_is_enough(ours: StableVideoDiffusionPipeline) -> None:
    assert alone(ours, photo(), num_frames=1).shape == (1, 1, 32, 48, 3)


def test_a_falling_guidance_is_kept(ours: StableVideoDiffusionPipeline) -> None:
    falling = {"min_guidance_scale": 3.0, "max_guidance_scale": 1.0}
    first = alone(ours, photo(), generator=seeded(0), **falling)
    assert np.abs(first - alone(ours, photo(), generator=seeded(0))).max() > 1 / 255


def test_several_clips_of_several_photos_each_show_their_own(
    ours: StableVideoDiffusionPipeline,
) -> None:
    photos = [photo(), photo(seed=7).rotate(180)]
    generators = [seeded(s) for s in range(4)]
    noise = torch.randn((4, 3, 4, 8, 12), generator=seeded(9))
    quiet = {"noise_aug_strength": 0.0, "num_inference_steps": 1}
    together = alone(
        ours, photos, num_videos_per_prompt=2, generator=generators, latents=noise, **quiet
    )
    assert np.abs(together[0] - together[2]).max() > 20 / 255
    for index, clip in enumerate(together):
        single = alone(ours, photos[index // 2], latents=noise[index : index + 1], **quiet)[0]
        assert np.abs(clip - single).max() < 1 / 255


def test_several_clips_of_one_photo_read_and_encode_it_once(
    ours: StableVideoDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def counting(name: str, function: Any) -> Any:  # noqa: ANN401
        def counted(*arguments: Any) -> Any:  # noqa: ANN401
            calls[name] += 1
            return function(*arguments)

        return counted

    photo().save(tmp_path / "photo.png")
    path = str(tmp_path / "photo.png")
    networks = ours.pipeline
    embed = networks.image_encoder.encode
    expected = alone(ours, photo(), generator=seeded(1))
    for module, name in ((media_photo, "_read"), (networks.vae, "encode")):
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    monkeypatch.setattr(networks.image_encoder, "encode", counting("embed", embed))
    listed = alone(ours, [path] * 3, generator=[seeded(1), seeded(2), seeded(3)])
    assert calls == {"_read": 1, "embed": 1, "encode": 3}, "each clip has its own noise"
    assert np.abs(listed[0] - expected[0]).max() < 1 / 255
    calls.clear()
    alone(ours, path, num_videos_per_prompt=3, generator=seeded(1))
    assert calls == {"_read": 1, "embed": 1, "encode": 1}


def test_chunks_never_cross_from_clip_to_clip(ours: StableVideoDiffusionPipeline) -> None:
    noise = torch.randn((2, 3, 4, 8, 12), generator=seeded(9))
    values: dict[str, Any] = {"noise_aug_strength": 0.0, "decode_chunk_size": 2}
    together = alone(ours, [photo(), photo(seed=1)], latents=noise, **values)
    single = alone(ours, photo(seed=1), latents=noise[1:], **values)
    assert np.abs(together[1] - single[0]).max() < 1 / 255


def test_both_names_of_the_chunk_mean_the_same(ours: StableVideoDiffusionPipeline) -> None:
    new, old, both = (
        alone(ours, photo(), generator=seeded(0), **values)
        for values in (
            {"decode_chunk_size": 2},
            {"frames_to_decode_at_once": 2},
            {"decode_chunk_size": 2, "frames_to_decode_at_once": 2},
        )
    )
    assert np.array_equal(new, old)
    assert np.array_equal(new, both)
    assert not np.array_equal(new, alone(ours, photo(), generator=seeded(0)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 36}, "size 48x36"),
        ({"num_frames": 0}, "frames 0"),
        ({"num_inference_steps": 0}, "steps 0"),
        ({"sigmas": [1.0]}, "sigmas"),
        ({"sigmas": [9.0, 0.0, 1.0]}, "sigmas"),
        ({"max_guidance_scale": float("nan")}, "guidance"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt 0"),
        ({"generator": [torch.Generator()] * 3}, "3 generators for 1 clips"),
        ({"latents": torch.zeros(1, 2, 4, 8, 12)}, "latents of shape"),
        ({"output_type": "gif"}, "output_type 'gif'"),
        ({"decode_chunk_size": 2, "frames_to_decode_at_once": 3}, "two names"),
        ({"callback_on_step_end_tensor_inputs": ["noise_pred"]}, "noise_pred"),
        ({"image": []}, "no image"),
        ({"image": torch.zeros(1, 4, 8, 8)}, "image of shape"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_the_value(
    ours: StableVideoDiffusionPipeline, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        ours(**({"image": photo()} | SMALL | values))


def test_calls_that_programs_make_around_it_are_taken(
    ours: StableVideoDiffusionPipeline, folder: Path
) -> None:
    before = alone(ours, photo(), generator=seeded(0))
    ours.enable_attention_slicing()
    ours.enable_xformers_memory_efficient_attention()
    ours.set_progress_bar_config(disable=True)
    ours.unet.enable_forward_chunking()
    assert ours.to("cpu").to(torch.float64).dtype == torch.float64
    assert ours.to(torch.device("cpu"), torch.float32) is ours
    assert np.abs(before - alone(ours, photo(), generator=seeded(0))).max() < 1 / 255
    half = StableVideoDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float16, variant="fp16", use_safetensors=True
    )
    assert half.dtype == torch.float16
    assert half.pipeline.vae.quant_conv.weight.dtype == torch.float32
    assert half.to("cpu", torch.bfloat16).pipeline.vae.quant_conv.weight.dtype == torch.float32


def test_images_load_upright_from_files_and_pil(tmp_path: Path) -> None:
    turned = photo(30, 20)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert load_image(str(tmp_path / "turned.png")).size == (20, 30)
    assert load_image(photo(30, 20)).size == (30, 20)
    grey = load_image(str(tmp_path / "turned.png"), lambda image: image.convert("L"))
    assert (grey.mode, grey.size) == ("L", (20, 30))
    with pytest.raises(MediaError, match="no such file"):
        load_image(str(tmp_path / "missing.png"))


def test_images_load_from_the_web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(30, 20).save(tmp_path / "photo.png")

    def opened(request: Any, timeout: float) -> Any:  # noqa: ANN401
        assert request.full_url == "https://example.org/photo.png"
        return (tmp_path / "photo.png").open("rb")

    monkeypatch.setattr("urllib.request.urlopen", opened)
    assert load_image("https://example.org/photo.png").size == (30, 20)
    monkeypatch.undo()
    with pytest.raises(MediaError, match="can't be fetched"):
        load_image("http://127.0.0.1:9/photo.png")


def test_numpy_frames_are_rounded_not_cut_off(tmp_path: Path) -> None:
    frames = np.full((2, 16, 16, 3), 99.6 / 255, dtype=np.float32)
    export_to_gif(list(frames), tmp_path / "clip.gif")
    assert read_video(tmp_path / "clip.gif")[0].max() == 100


def test_videos_are_written_under_any_name_and_replaced(tmp_path: Path) -> None:
    frames = [photo(33, 21)] * 3
    path = export_to_video(frames, str(tmp_path / "clip.mp4"), fps=7)
    assert path == str(tmp_path / "clip.mp4")
    export_to_video(np.stack([np.asarray(f) for f in frames]), tmp_path / "clip.mp4", fps=5)
    clip, fps = read_video(path)
    assert (clip.shape, fps) == ((3, 21, 33, 3), 5)
    temporary = Path(export_to_video(frames))
    assert temporary.suffix == ".mp4"
    temporary.unlink()
    with pytest.warns(KinoraWarning, match="bitrate"):
        export_to_video(frames, path, bitrate=1000)
    with pytest.raises(RequestError, match="16x16, 33x21"):
        export_to_video([photo(33, 21), photo(16, 16)], path)


def test_the_bundled_model_runs_at_its_own_size() -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained("nano", torch_dtype=torch.float32)
    frames = pipe(photo(), num_frames=2, num_inference_steps=1).frames[0]
    config = pipe.pipeline.config
    assert [frame.size for frame in frames] == [(config.width, config.height)] * 2


def test_a_scheduler_is_refused_rather_than_ignored(ours: StableVideoDiffusionPipeline) -> None:
    with pytest.raises(RequestError, match=r"scheduler.*sigmas"):
        ours.scheduler = object()


def test_models_of_the_hub_are_asked_for_as_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"not in the cache \({tmp_path}\), and local_files"):
        StableVideoDiffusionPipeline.from_pretrained(
            "someone/small-video", cache_dir=tmp_path, local_files_only=True
        )


def test_the_program_of_diffusers_guide_runs(tmp_path: Path) -> None:
    PATH, device = str(write_own(tmp_path / "swift.safetensors", SWIFT)), "cpu"
    photo(640, 360).save(tmp_path / "rocket.png")

    pipe = StableVideoDiffusionPipeline.from_pretrained(
        PATH, torch_dtype=torch.float16, variant="fp16"
    ).to(device)
    image = load_image(str(tmp_path / "rocket.png")).resize((1024, 576))
    frames = pipe(image, num_frames=25, frames_to_decode_at_once=8).frames[0]
    export_to_video(frames, str(tmp_path / "generated.mp4"), fps=7)

    clip = Clip.open(tmp_path / "generated.mp4")
    assert clip.frames.shape == (25, 576, 1024, 3)
    assert clip.fps == 7
    assert clip.recipe["door"] == "diffusers"
    assert clip.recipe["request"]["decode_chunk"] == 8
