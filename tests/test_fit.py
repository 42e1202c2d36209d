"""Fitting a photo to a model's size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kinora.errors import RequestError
from kinora.media import fit, load_photo
from tests.test_photo import corners, stored


def test_one_pixel_is_enough() -> None:
    photo = load_photo(stored(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"))
    for how in ("crop", "pad", "stretch"):
        assert (fit(photo, (64, 64), how) == (9, 99, 199)).all()


@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["crop", "pad", "stretch"]),
)
def test_fit_gives_exactly_the_size_asked_for(
    photo: tuple[int, int], size: tuple[int, int], how: str
) -> None:
    fitted = fit(Image.new("RGB", photo, (50, 100, 150)), size, how)
    assert fitted.shape == (size[1], size[0], 3)
    assert fitted.flags.writeable
    if how != "pad":
        assert (fitted == (50, 100, 150)).all()


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
def test_a_photo_of_the_right_size_is_left_alone(how: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (31, 57, 3), dtype=np.uint8)
    assert (fit(Image.fromarray(noise), (57, 31), how) == noise).all()


def test_crop_is_centred_pad_shows_all_stretch_changes_shape() -> None:
    ramp = np.arange(0, 240, dtype=np.uint8)[None, :, None].repeat(120, 0).repeat(3, 2)
    photo = Image.fromarray(ramp)
    assert (fit(photo, (120, 120), "crop") == ramp[:, 60:180]).all()
    tall = fit(photo.transpose(Image.Transpose.TRANSPOSE), (120, 120), "crop")
    assert (tall == ramp[:, 60:180].transpose(1, 0, 2)).all()
    padded = fit(photo, (240, 240), "pad")
    assert (padded[60:180] == ramp).all()
    assert not padded[:60].any()
    assert not padded[180:].any()
    stretched = fit(photo, (120, 120), "stretch")[60, :, 0].astype(float)
    assert np.abs(stretched - (2 * np.arange(120) + 0.5)).max() <= 2.5


def test_scaling_down_averages_instead_of_picking() -> None:
    checks = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    small = fit(Image.fromarray(checks), (32, 32))
    assert abs(small.astype(int) - 127).max() <= 2


def test_wrong_fits_are_refused() -> None:
    with pytest.raises(RequestError, match=r"'squeeze'.*crop, pad, stretch"):
        fit(corners(), (8, 8), "squeeze")
    with pytest.raises(RequestError, match="0x8"):
        fit(corners(), (0, 8))
