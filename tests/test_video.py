"""Videos: what is read back is what was written."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from kinora.errors import MediaError, RequestError
from kinora.media import read_recipe, read_video, write_video
from kinora.media.recipe import Label

NAMES = ["clip.mp4", "clip.webm", "clip.gif", "clip.webp", "clip"]
LEAST_PSNR = {"clip.mp4": 40, "clip.webm": 40, "clip.gif": 24, "clip.webp": 35, "clip": 200}

RECIPE: dict[str, Any] = {
    "model": "sha256:0123",
    "request": {"image": 'Ünï "cödé" 猫🐈 \\ \' ; = # \n\t.jpg', "guidance": [1.0, 3.0]},
    "none": None,
    "true": True,
    "number": 0.1,
    "big": 2**63 - 1,
    "surrogate": "\ud800",
    "nul": "a\0b",
    "empty": {},
}


def smooth(frames: int = 8, height: int = 64, width: int = 96) -> np.ndarray[Any, Any]:
    """Soft colours that move."""
    t, y, x = np.mgrid[:frames, :height, :width]
    waves = (
        np.sin(x / 17 + t / 3),
        np.sin(y / 21 - t / 4),
        np.sin((x + y) / 25 + t / 5),
    )
    return np.rint(127.5 + 110 * np.stack(waves, -1)).astype(np.uint8)


def psnr(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    error = np.mean((a.astype(float) - b) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-20)))


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("fps", [1, 7, 25, 60])
def test_frames_and_speed_come_back(name: str, count: int, fps: int, tmp_path: Path) -> None:
    clip = smooth(count)
    path = write_video(tmp_path / name, clip, fps, RECIPE, quality=10)
    assert path == tmp_path / name
    frames, speed = read_video(path)
    assert speed == fps
    assert frames.shape == clip.shape
    assert psnr(frames, clip) > LEAST_PSNR[name]
    assert abs((frames.astype(float) - clip).mean((0, 1, 2))).max() < 1.5  # no tint, no range error
    assert left_in(tmp_path) == [name]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(33, 47), (32, 47), (33, 48), (1, 1), (2, 2)])
def test_odd_sizes_come_back(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    clip = smooth(3, *size)
    frames, _ = read_video(write_video(tmp_path / name, clip, 7, {}, quality=10))
    assert frames.shape == clip.shape
    assert psnr(frames, clip) > 28


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_that_stands_still_keeps_its_length(name: str, tmp_path: Path) -> None:
    clip = smooth(1).repeat(6, 0)
    frames, fps = read_video(write_video(tmp_path / name, clip, 7, {}))
    assert (frames.shape, fps) == (clip.shape, 7)


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_comes_back_exactly(name: str, tmp_path: Path) -> None:
    for number, recipe in enumerate((RECIPE, {}, {"long": "é" * 200_000})):
        path = (tmp_path / f"{number}{name}").with_suffix(Path(name).suffix)
        write_video(path, smooth(2, 16, 16), 7, recipe)
        assert read_recipe(path) == recipe
    for png in tmp_path.glob("0clip/*.png"):
        assert read_recipe(png) == RECIPE


def test_the_recipe_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    for name in NAMES[:4]:
        path = write_video(tmp_path / name, smooth(2), 7, RECIPE)
        path = path.rename(tmp_path / "renamed.bin")
        assert read_recipe(path) == RECIPE
        assert len(read_video(path)[0]) == 2


def test_files_of_others_hold_no_recipe(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 8))
    picture.save(tmp_path / "a.jpg", comment="{}")
    picture.save(tmp_path / "a.gif", comment='{"kinora": 1, "fps": 7}')
    picture.save(tmp_path / "a.png")
    (tmp_path / "folder").mkdir()
    with av.open(str(tmp_path / "a.mp4"), "w") as output:
        output.metadata["comment"] = "made by hand"
        stream = output.add_stream("mpeg4", rate=Fraction(30000, 1001))
        stream.height = stream.width = 16
        for _ in range(3):
            output.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (16, 16)))))
        output.mux(stream.encode(None))
    for path in tmp_path.iterdir():
        assert read_recipe(path) is None
    frames, fps = read_video(tmp_path / "a.mp4")
    assert (len(frames), fps) == (3, 30)


@given(st.one_of(st.text(max_size=20), st.binary(max_size=20), st.none(), st.integers()))
def test_no_comment_is_taken_for_a_recipe(text: object) -> None:
    assert Label.from_text(text) is None


@pytest.mark.parametrize("count", [1, 2, 14, 25])
def test_mp4_is_what_players_want(count: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", smooth(count, 63, 97), 7, RECIPE)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # starts before it is fully fetched
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (98, 64)
        tags = (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range)
        assert tags == (1, 1, 1, 1)  # BT.709 thrice, limited range
        assert stream.average_rate == 7
        assert stream.frames == count
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == Fraction(count, 7)
        assert source.duration is not None
        assert abs(source.duration / 1e6 - count / 7) < 2e-3
        shown = [frame.time for frame in source.decode(stream)]
    assert shown == pytest.approx([number / 7 for number in range(count)], abs=1e-4)


def test_webm_is_what_players_want(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.webm", smooth(14, 63, 97), 7, RECIPE)
    with av.open(str(path)) as source:
        stream = source.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt) == ("vp9", "yuv420p")
        assert (stream.width, stream.height) == (97, 63)
        assert (codec.colorspace, codec.color_range) == (1, 1)
        assert stream.average_rate == 7
        assert source.duration == pytest.approx(2e6, abs=2e3)
        assert len(list(source.decode(stream))) == 14


@pytest.mark.parametrize(("name", "tick"), [("a.gif", 10), ("a.webp", 1)])
@pytest.mark.parametrize("fps", [6, 7, 24, 30, 50])
def test_animations_last_right_to_the_tick(name: str, tick: int, fps: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, smooth(14), fps, {})
    with Image.open(path) as image:
        assert image.info["loop"] == 0  # for ever
        durations = list[int]()
        for frame in ImageSequence.Iterator(image):
            frame.load()
            durations.append(frame.info["duration"])
    assert len(durations) == 14
    assert abs(sum(durations) - 14_000 / fps) <= tick / 2
    assert max(durations) - min(durations) <= tick
    assert min(durations) >= 20  # else viewers take 100


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.webp"])
def test_better_quality_is_closer_and_larger(name: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 12, (6, 64, 96, 3))
    clip = np.clip(smooth(6) + noise, 0, 255).astype(np.uint8)
    sizes, closeness = [], []
    for quality in (1, 4, 7, 10):
        path = write_video(tmp_path / name, clip, 7, {}, quality=quality, overwrite=True)
        sizes.append(path.stat().st_size)
        closeness.append(psnr(read_video(path)[0], clip))
    assert sizes == sorted(sizes)
    assert closeness == sorted(closeness)
    assert sizes[3] > 2 * sizes[0]


def test_relative_names_with_colons_are_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("12:30.mp4", "http:x.webm"):
        write_video(name, smooth(2), 7, RECIPE)
        assert read_recipe(name) == RECIPE
        assert len(read_video(name)[0]) == 2


def test_suffixes_may_shout(tmp_path: Path) -> None:
    path = write_video(tmp_path / "CLIP.MP4", smooth(2), 7, RECIPE)
    assert path.name == "CLIP.MP4"
    assert read_recipe(path) == RECIPE


def test_what_is_no_video_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def made(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    mp4 = write_video(tmp_path / "good.mp4", smooth(8), 7, {}).read_bytes()
    gif = write_video(tmp_path / "good.gif", smooth(8), 7, {}).read_bytes()
    playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "bare").mkdir()
    (tmp_path / "foreign").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "foreign" / "frame-0001.png")
    for path, words in (
        (tmp_path / "missing.mp4", "no such file"),
        (made("empty.mp4", b""), "empty"),
        (made("text.mp4", b"Dear diary,"), "not a video"),
        (made("playlist.mp4", playlist), "not a video"),
        (made("cut.mp4", mp4[: len(mp4) // 3]), "damaged"),
        (made("cut.gif", gif[:200]), "damaged"),
        (tmp_path / "bare", "no frames"),
        (tmp_path / "foreign", "don't say how many a second"),
    ):
        with pytest.raises(MediaError, match=words) as caught:
            read_video(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
    for name in ("missing.mp4", "empty.mp4", "text.mp4", "playlist.mp4"):
        with pytest.raises(MediaError, match=name):
            read_recipe(tmp_path / name)


@pytest.mark.parametrize(
    ("fps", "quality", "recipe", "words"),
    [
        (0, 8, {}, "fps 0: must be a whole number from 1 to 240"),
        (7, 0, {}, "quality 0: must be a whole number from 1 to 10"),
        (7, 11, {}, "quality 11"),
        (7, 8, {"a": float("nan")}, "JSON"),
        (7, 8, {"a": object()}, "JSON"),
    ],
)
def test_values_out_of_range_are_refused(
    fps: int, quality: int, recipe: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match=words):
        write_video(tmp_path / "a.mp4", smooth(1), fps, recipe, quality=quality)
    assert left_in(tmp_path) == []


def test_no_frames_make_no_video(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not empty"):
        write_video(tmp_path / "a.mp4", smooth(1)[:0], 7, {})
