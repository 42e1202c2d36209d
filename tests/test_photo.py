"""Photos: whatever the file, the viewer's picture; whatever is wrong, one sentence."""

import io
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from kinora.errors import MediaError
from kinora.media import load_photo
from tests.hostile import short_tiff

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners() -> Image.Image:
    """A landscape photo with four different corners."""
    image = Image.new("RGB", (48, 32))
    for box, colour in (
        ((0, 0, 24, 16), RED),
        ((24, 0, 48, 16), GREEN),
        ((0, 16, 24, 32), BLUE),
        ((24, 16, 48, 32), WHITE),
    ):
        image.paste(colour, box)
    return image


def stored(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG made by hand, for what Pillow doesn't write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def close(photo: Image.Image, expected: Image.Image, tolerance: int = 0) -> bool:
    assert photo.mode == "RGB"
    assert photo.size == expected.size
    difference = np.asarray(photo).astype(int) - np.asarray(expected.convert("RGB"))
    return bool(abs(difference).max() <= tolerance)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
def test_every_format_gives_the_picture_from_path_bytes_and_image(
    kind: str, tmp_path: Path
) -> None:
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}
    data = stored(corners(), kind, **lossless.get(kind, {}))
    path = tmp_path / "photo.any"
    path.write_bytes(data)
    for source in (path, str(path), data, Image.open(io.BytesIO(data))):
        assert close(load_photo(source), corners(), 8 if kind == "JPEG" else 0)


def test_arrays_of_rgb_grey_and_alpha_are_photos() -> None:
    array = np.asarray(corners())
    assert close(load_photo(array), corners())
    assert close(load_photo(array[:, :, 0]), Image.fromarray(array[:, :, 0]))
    assert close(load_photo(array[:, :, :1]), Image.fromarray(array[:, :, 0]))
    half = np.dstack([array, np.full((32, 48), 128, np.uint8)])
    assert close(
        load_photo(half), Image.blend(Image.new("RGB", (48, 32), WHITE), corners(), 0.5), 2
    )


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 4, 3), 1.5, np.float32),
        np.full((4, 4, 3), -0.5, np.float64),
        np.full((4, 4, 3), np.nan, np.float32),
        np.zeros((4, 4, 3), np.int16),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(MediaError, match="array"):
        load_photo(array)


RGB = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_arrays_and_tensors_of_either_layout_are_photos(
    library: str, channels_first: bool, dtype: torch.dtype
) -> None:
    """Bytes, or floats from 0 to 1. (bfloat16 holds 8 bits: a byte comes out 1 off at most.)"""
    if library == "numpy" and dtype == torch.bfloat16:
        pytest.skip("numpy has no bfloat16")
    values = torch.from_numpy(RGB.copy())
    values = values if dtype == torch.uint8 else (values.double() / 255).to(dtype)
    values = values.permute(2, 0, 1) if channels_first else values
    found = np.asarray(load_photo(values if library == "torch" else values.numpy()))
    off = np.abs(found.astype(int) - RGB.astype(int)).max()
    assert off <= (1 if dtype == torch.bfloat16 else 0)


def test_an_open_file_and_any_bytes_are_photos(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    data = path.read_bytes()
    with path.open("rb") as file:
        for source in (path, str(path), data, bytearray(data), memoryview(data), file):
            assert np.array_equal(np.asarray(load_photo(source)), RGB)
    with path.open(encoding="latin-1") as file, pytest.raises(MediaError, match="'rb'"):
        load_photo(file)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(kind: str, orientation: int) -> None:
    upright = np.asarray(corners())
    # How a camera held that way stores the scene (the EXIF standard's table, not ours).
    kept = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossy = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    options = {"lossless": True} if kind == "WEBP" else lossy
    data = stored(Image.fromarray(np.ascontiguousarray(kept)), kind, exif=exif, **options)
    assert close(load_photo(data), corners(), 8)


def test_damaged_exif_is_no_reason_to_refuse_a_photo() -> None:
    data = stored(corners(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert load_photo(data).size == (48, 32)


def test_transparent_parts_are_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert close(load_photo(stored(clear, "PNG")), Image.new("RGB", (8, 8), WHITE))
    grey = Image.new("LA", (8, 8), (0, 128))
    assert close(load_photo(stored(grey, "PNG")), Image.new("RGB", (8, 8), (127,) * 3))
    assert close(load_photo(grey.convert("La")), Image.new("RGB", (8, 8), (127,) * 3))


def test_palettes_keep_colours_and_transparency() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    flat = Image.new("RGB", (8, 8), (200, 100, 50))
    white = Image.new("RGB", (8, 8), WHITE)
    for kind in ("PNG", "GIF"):
        assert close(load_photo(stored(palette, kind)), flat)
        assert close(load_photo(stored(palette, kind, transparency=1)), white)
    half = load_photo(stored(palette, "PNG", transparency=b"\xff\x80"))
    assert close(half, Image.new("RGB", (8, 8), (227, 177, 152)), 1)


def test_a_colour_declared_transparent_is_white() -> None:
    assert close(
        load_photo(stored(Image.new("RGB", (8, 8), RED), "PNG", transparency=RED)),
        Image.new("RGB", (8, 8), WHITE),
    )
    assert close(
        load_photo(stored(Image.new("L", (8, 8), 7), "PNG", transparency=7)),
        Image.new("RGB", (8, 8), WHITE),
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit_is_black_and_white(kind: str) -> None:
    image = Image.new("1", (16, 8))
    image.paste(1, (8, 0, 16, 8))
    assert close(load_photo(stored(image, kind)), image)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_shows_its_colours_not_their_negative(kind: str) -> None:
    data = stored(corners().convert("CMYK"), kind, quality=95)
    assert close(load_photo(data), corners(), 24)  # JPEG bleeds at the corners' edges
    assert np.asarray(load_photo(data))[4, 4].tolist()[0] > 240


def test_an_embedded_profile_is_obeyed() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same = load_photo(stored(corners(), "PNG", icc_profile=profile))
    assert close(same, corners())  # sRGB changes nothing at all
    swapped = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    swapped = swapped.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    red_is_blue = load_photo(stored(Image.new("RGB", (8, 8), RED), "PNG", icc_profile=swapped))
    assert close(red_is_blue, Image.new("RGB", (8, 8), BLUE), 4)
    broken = load_photo(stored(corners(), "PNG", icc_profile=b"no profile"))
    assert close(broken, corners())


RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16)[None].repeat(4, 0)
RAMP_8 = Image.fromarray(np.arange(256, dtype=np.uint8)[None].repeat(4, 0))


def test_sixteen_bits_of_grey_are_scaled_not_clipped() -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RAMP)
    little = stored(Image.fromarray(RAMP), "TIFF")
    big = Image.frombytes("I;16B", (256, 4), RAMP.astype(">u2").tobytes())
    white_is_zero = little.replace(
        struct.pack("<HHIHH", 262, 3, 1, 1, 0), struct.pack("<HHIHH", 262, 3, 1, 0, 0)
    )
    assert white_is_zero != little
    for source in (
        png(256, 4, 16, 0, rows),
        little,
        stored(big, "TIFF"),
        stored(Image.fromarray(RAMP), "PNG"),
        Image.fromarray(RAMP),
        Image.fromarray(RAMP.astype(np.int32)),
    ):
        assert close(load_photo(source), RAMP_8)
    assert close(load_photo(white_is_zero), RAMP_8.transpose(Image.Transpose.FLIP_LEFT_RIGHT))


def test_sixteen_bits_of_colour_are_scaled() -> None:
    colour = np.stack([RAMP, RAMP[:, ::-1], RAMP], -1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in colour)
    expected = np.asarray(RAMP_8)
    assert close(
        load_photo(png(256, 4, 16, 2, rows)),
        Image.fromarray(np.stack([expected, expected[:, ::-1], expected], -1)),
        1,
    )


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0, 1e6])
def test_floating_point_grey_is_scaled_by_its_range(white: float) -> None:
    values = np.linspace(0, white, 256, dtype=np.float32)[None].repeat(4, 0).copy()
    assert close(load_photo(stored(Image.fromarray(values), "TIFF")), RAMP_8)
    values[0, 0], values[1, 255], values[2, 0] = np.nan, np.inf, -np.inf
    assert close(load_photo(stored(Image.fromarray(values), "TIFF")), RAMP_8)


def test_32_bits_of_grey_are_scaled() -> None:
    values = (np.arange(256, dtype=np.int64) * (2**31 - 1) // 255).astype(np.int32)
    image = Image.fromarray(values[None].repeat(4, 0))
    assert close(load_photo(image), RAMP_8, 1)


def test_the_first_frame_of_an_animation_is_the_photo() -> None:
    first, second = corners(), Image.new("RGB", (48, 32), RED)
    for kind in ("GIF", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = stored(first, kind, save_all=True, append_images=[second], **options)
        assert close(load_photo(data), corners())


def bomb() -> bytes:
    return png(30_000, 30_000, 1, 0, bytes(3751) * 4)


def test_limits_are_checked_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    for width, height in ((30_000, 30_000), (10_000, 10_000), (8001, 8000)):
        data = png(width, height, 1, 0, b"")
        assert len(data) < 1000
        with pytest.raises(MediaError, match=r"pixels; at most 64 million .*Scale it down"):
            load_photo(data)
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(64 * 2**20 + 1)
    with pytest.raises(MediaError, match=r"large.png: 64 MiB; .* at most 64 MiB"):
        load_photo(path)


@pytest.mark.parametrize(
    "compression",
    ["raw", "packbits", "lzma", "zstd", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"],
)
def test_missing_rows_are_refused_and_never_show_what_was_in_memory(compression: str) -> None:
    """GHSA-q45j-58j2-45rg, and what else has such decoders; Pillow 13 makes them black."""
    if compression in ("jpeg", "group4") and int(PIL.__version__.partition(".")[0]) >= 13:
        assert not np.asarray(load_photo(short_tiff(compression)))[8:].any()
    else:
        with pytest.raises(MediaError, match=r"Save it as PNG|damaged or cut off"):
            load_photo(short_tiff(compression))


def test_what_is_no_photo_is_refused_in_one_sentence(tmp_path: Path) -> None:
    def made(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    jpeg, flat = stored(Image.fromarray(noise), "JPEG"), stored(corners(), "PNG")
    for source, words in (
        (tmp_path / "missing.jpg", "no such file"),
        (tmp_path, "a folder"),
        (made("empty.jpg", b""), "empty"),
        (made("text.jpg", b"Dear diary,"), "it is a text file"),
        (made("phone.jpg", b"\0\0\0\x18ftypheic" + bytes(32)), "HEIC"),
        (made("junk.jpg", bytes(range(128, 256))), "unknown kind"),
        (made("cut.jpg", jpeg[: len(jpeg) // 2]), "damaged or cut off"),
        (made("head.jpg", jpeg[:20]), "not a picture|damaged"),
        (made("cut.png", flat[: len(flat) - 30]), "damaged or cut off"),
        (made("swapped.png", flat[:40] + flat[60:]), "damaged"),
        (made("bomb.png", bomb()), "900000000 pixels"),
        (made("new.ico", stored(corners(), "ICO")), "not a picture that Kinora can read"),
        ("a\0b", "no such file|can't be read"),
        ("x" * 5000, "no such file|can't be read"),
        (b"", "empty"),
    ):
        with pytest.raises(MediaError, match=words) as caught:
            load_photo(source)
        assert "\n" not in str(caught.value)
        if isinstance(source, Path):
            assert source.name in str(caught.value)


@given(st.binary(max_size=200), st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_damage_anywhere_is_a_media_error_or_a_photo(damage: bytes, kind: str) -> None:
    data = bytearray(stored(corners(), kind))
    for at, byte in zip(damage[::2], damage[1::2], strict=False):
        data[at * len(data) // 256] = byte
    with suppress(MediaError):
        assert load_photo(bytes(data)).mode == "RGB"


def test_importing_media_is_cheap() -> None:
    heavy = "import sys, kinora.media, kinora.clip; print({'torch', 'av'} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-c", heavy], capture_output=True, check=True)
    assert output.stdout.strip() == b"set()"
