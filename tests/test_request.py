"""A request is checked before anything heavy is loaded."""

import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinora import diffusion
from kinora.config import (
    NANO,
    SVD,
    SVD_XT,
    SVD_XT_1_1,
    TINY,
    ModelConfig,
    config_from_dict,
    config_to_dict,
)
from kinora.errors import CheckpointError, RequestError
from kinora.request import QUALITIES, SAMPLERS, SCHEDULES, Request, agree

MODELS = [NANO, SVD, SVD_XT, SVD_XT_1_1, TINY]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frames", 0),
        ("frames", 10_000),
        ("steps", 0),
        ("fps", 0),
        ("fps", 1000),
        ("motion", -1),
        ("motion", 999),
        ("noise_aug", float("nan")),
        ("noise_aug", -0.1),
        ("guidance", (1.0, float("nan"))),
        ("guidance", (float("inf"), 1.0)),
        ("seed", -1),
        ("seed", 2**63),
        ("size", (0, 64)),
        ("guidance_interval", (2.0, 1.0)),
        ("guidance_interval", (-1.0, 1.0)),
        ("guidance_every", 0),
        ("inner_every", 101),
        ("quality", "best"),
        ("sampler", "nobody"),
        ("schedule", "never"),
        ("fit", "squeeze"),
        ("decode_chunk", 0),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(field: str, value: object) -> None:
    arguments: dict[str, Any] = {"image": "photo.jpg", field: value}
    with pytest.raises(RequestError, match=field):
        Request(**arguments)


def test_values_of_another_kind_are_refused_by_name_too() -> None:
    """In a process of its own, without the hook of this suite that checks types before we do."""
    wrong = [
        ("frames", 2.5),
        ("frames", True),
        ("guidance", 3.0),
        ("guidance", (1.0, 2.0, 3.0)),
        ("size", (64,)),
        ("size", (1e9, 64)),
        ("seed", "seven"),
    ]
    code = f"""
from kinora import Request, RequestError
for field, value in {wrong!r}:
    try:
        Request(**{{"image": "photo.jpg", field: value}})
    except RequestError as error:
        assert field in str(error), error
    else:
        raise AssertionError((field, value))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@given(
    frames=st.integers(1, 256),
    motion=st.integers(0, 255),
    fps=st.integers(1, 60),
    seed=st.integers(0, 2**63 - 1),
    guidance=st.tuples(st.floats(0, 100), st.floats(0, 100)),
    noise_aug=st.floats(0, 1),
)
def test_what_is_asked_for_is_what_is_planned(
    frames: int,
    motion: int,
    fps: int,
    seed: int,
    guidance: tuple[float, float],
    noise_aug: float,
) -> None:
    asked = {
        "frames": frames,
        "motion": motion,
        "fps": fps,
        "seed": seed,
        "guidance": guidance,
        "noise_aug": noise_aug,
    }
    arguments: dict[str, Any] = {"image": "photo.jpg", **asked}
    plan = Request(**arguments).resolved(NANO, (100, 100))
    assert {name: getattr(plan, name) for name in asked} == asked


@pytest.mark.parametrize("config", MODELS)
def test_nothing_is_left_open_in_a_plan(config: ModelConfig) -> None:
    values = Request(image="some/photo.jpg").resolved(config, (640, 480)).to_dict()
    left_out = [name for name, value in values.items() if value is None]
    assert left_out == ["guidance_interval", "decode_chunk"]
    assert values["image"] == "photo.jpg"


def test_a_seed_left_out_is_drawn_anew() -> None:
    request = Request(image="photo.jpg")
    assert len({request.resolved(NANO, (9, 9)).seed for _ in range(9)}) > 1


@pytest.mark.parametrize(
    ("photo", "size"),
    [((4000, 2000), (1024, 576)), ((2000, 4000), (576, 1024)), ((3000, 2900), (768, 768))],
)
def test_a_photos_own_shape_picks_the_orientation(
    photo: tuple[int, int], size: tuple[int, int]
) -> None:
    assert Request(image="photo.jpg").resolved(SVD_XT, photo).size == size


def test_a_size_that_the_model_cannot_make_names_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"multiples of 64.*1024x576"):
        Request(image="photo.jpg", size=(1000, 560)).resolved(SVD_XT, (9, 9))


def test_more_frames_than_trained_are_allowed_with_a_word() -> None:
    assert not Request(image="photo.jpg", frames=25).cautions(SVD_XT)
    assert "25" in Request(image="photo.jpg", frames=26).cautions(SVD_XT)[0]


@pytest.mark.parametrize("quality", QUALITIES)
def test_a_quality_chooses_what_is_left_open(quality: str) -> None:
    chosen = QUALITIES[quality]
    plan = Request(image="photo.jpg", quality=quality, seed=1).resolved(SVD, (4, 3))
    assert {name: getattr(plan, name) for name in chosen} == chosen
    assert plan.quality == quality
    mine: dict[str, Any] = {
        "sampler": "heun", "steps": 77, "schedule": "ays", "guidance_every": 9, "inner_every": 8,
        "guidance_interval": (1.0, 2.0),
    }  # fmt: skip
    plan = Request(image="photo.jpg", quality=quality, **mine).resolved(SVD, (4, 3))
    assert {name: getattr(plan, name) for name in mine} == mine


def test_exact_is_the_default_quality_and_takes_no_short_cut() -> None:
    exact, default = (
        Request(image="photo.jpg", quality=quality, seed=1).resolved(SVD, (4, 3))
        for quality in ("exact", None)
    )
    assert exact == default
    assert (exact.sampler, exact.steps, exact.schedule) == ("euler", SVD.steps, "karras")
    assert (exact.guidance_every, exact.inner_every, exact.guidance_interval) == (1, 1, None)


def test_a_batch_must_agree() -> None:
    plan = Request(image="photo.jpg").resolved(TINY, (9, 9))
    assert agree([plan, replace(plan, seed=7, motion=3)]) is plan
    with pytest.raises(RequestError, match="frames"):
        agree([plan, replace(plan, frames=2)])
    with pytest.raises(RequestError, match="at least one"):
        agree([])


def test_every_sampler_and_schedule_that_can_be_asked_for_is_written() -> None:
    assert (*diffusion.SAMPLERS, *diffusion.STOCHASTIC) == SAMPLERS
    assert tuple(diffusion.SCHEDULES) == SCHEDULES


@pytest.mark.parametrize("config", MODELS)
def test_configurations_survive_json(config: ModelConfig) -> None:
    assert config_from_dict(config_to_dict(config)) == config


def test_an_unknown_configuration_is_refused() -> None:
    values = {**config_to_dict(TINY), "surprise": 1}
    with pytest.raises(CheckpointError, match="surprise"):
        config_from_dict(values)


def test_requests_do_not_load_torch() -> None:
    code = (
        "import sys, kinora; kinora.Request(image='a'); kinora.SVD;sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("asked", [{"sampler": "consistency"}, {"schedule": "consistency"}])
@pytest.mark.parametrize("quality", [None, *QUALITIES])
def test_a_consistency_model_takes_four_steps_unless_one_to_twenty_are_asked_for(
    asked: dict[str, str], quality: str | None
) -> None:
    request = partial(Request, image="photo.jpg", quality=quality, **asked)
    for config in (SVD, SVD_XT, NANO):
        assert request().resolved(config, (4, 3)).steps == 4
        assert request(steps=20).resolved(config, (4, 3)).steps == 20
    for steps in (0, 21, 30, 1000):
        with pytest.raises(RequestError, match=f"steps {steps}: .*1 (to 20 steps|to 1000)"):
            request(steps=steps)
