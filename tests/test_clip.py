"""A clip: what is saved comes back."""

from pathlib import Path

import numpy as np
import pytest

from kinora.clip import Clip
from kinora.errors import MediaError, OutputError, RequestError

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.webp", "a"])
def test_a_saved_clip_comes_back_with_its_recipe(name: str, tmp_path: Path) -> None:
    clip = Clip(FRAMES, 7, {"seed": 3, "size": (48, 32)})
    again = Clip.open(clip.save(tmp_path / name, video_quality=9))
    assert again.frames.shape == clip.frames.shape
    assert again.fps == 7
    assert again.recipe == clip.recipe == {"seed": 3, "size": [48, 32]}
    if name == "a":
        assert (again.frames == clip.frames).all()


def test_a_clip_knows_its_measures() -> None:
    clip = Clip(FRAMES, 10, {})
    assert clip.duration == 0.5
    assert clip.size == (48, 32)


def test_saving_never_overwrites_unless_asked(tmp_path: Path) -> None:
    clip = Clip(FRAMES, 7, {})
    path = clip.save(tmp_path / "a.gif")
    with pytest.raises(OutputError, match="exists already"):
        clip.save(path)
    assert clip.save(path, overwrite=True) == path
    assert clip.save_free(path) == tmp_path / "a-2.gif"
    assert clip.save_free(path) == tmp_path / "a-3.gif"


def test_a_clip_without_recipe_opens_with_none(tmp_path: Path) -> None:
    assert Clip.open(Clip(FRAMES, 7, {}).save(tmp_path / "a.webp")).recipe == {}
    with pytest.raises(MediaError, match="no such file"):
        Clip.open(tmp_path / "b.webp")


def test_a_recipe_that_no_file_can_hold_is_refused_at_once() -> None:
    with pytest.raises(RequestError, match="JSON"):
        Clip(FRAMES, 7, {"bad": float("inf")})
