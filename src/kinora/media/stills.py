"""Moving pictures that Pillow writes: GIF, animated WebP, folders of PNGs."""

from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence
from PIL.PngImagePlugin import PngInfo

from kinora.errors import MediaError
from kinora.media.picture import MAX_PIXELS, header, quiet
from kinora.media.recipe import Label
from kinora.media.target import FRAME_NAME

__all__ = ["label_of", "read_animation", "read_folder", "write_folder", "write_gif", "write_webp"]

_DESCRIPTION: Final = 0x010E
"""EXIF's ImageDescription."""

_GIF_FASTEST: Final = 50
"""Frames a second; below 0.02 s a frame, viewers fall back to 0.1 s."""

_PALETTE_SAMPLE: Final = 2**20
_MAX_ANIMATION: Final = 64 * MAX_PIXELS

Frames = UInt8[np.ndarray, "t h w 3"]


def write_gif(path: Path, frames: Frames, label: Label) -> None:
    """Write a GIF that repeats, with one palette of 256 colours for the whole clip.

    Its clock ticks in 1/100 s: frames take turns being a tick longer, so that the whole lasts
    right to the tick. It can't be faster than 50 fps; faster clips are shown at that.
    """
    step = max(1, frames.shape[0] * frames.shape[1] * frames.shape[2] // _PALETTE_SAMPLE)
    sample = frames.reshape(-1, 1, 3)[::step]
    # Of Pillow's methods the octree is the quickest and, dithered, the closest on photos.
    octree, dither = Image.Quantize.FASTOCTREE, Image.Dither.FLOYDSTEINBERG
    palette = Image.fromarray(np.ascontiguousarray(sample)).quantize(256, octree)
    pictures = [Image.fromarray(f).quantize(palette=palette, dither=dither) for f in frames]
    pictures[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=_durations(len(frames), min(label.fps, _GIF_FASTEST), tick=10),
        loop=0,
        comment=label.to_text(),
    )


def write_webp(path: Path, frames: Frames, label: Label, quality: int) -> None:
    """Write an animated WebP that repeats; its clock ticks in 1/1000 s."""
    pictures = [Image.fromarray(frame) for frame in frames]
    exif = Image.Exif()
    exif[_DESCRIPTION] = label.to_text()
    pictures[0].save(
        path,
        format="WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=_durations(len(frames), label.fps, tick=1),
        loop=0,
        quality=10 * quality,
        method=4,
        exif=exif,
    )


def write_folder(path: Path, frames: Frames, label: Label) -> None:
    """Write frame-0001.png and so on into a new folder; every one carries the recipe."""
    path.mkdir()
    text = PngInfo()
    text.add_text("kinora", label.to_text())
    for number, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(path / f"frame-{number:04}.png", format="PNG", pnginfo=text)


def label_of(image: Image.Image) -> Label | None:
    """What an opened picture says about itself, wherever its format keeps that."""
    try:
        described: Any = image.getexif().get(_DESCRIPTION)
    except Exception:  # damaged EXIF raises nearly anything
        described = None
    texts = (image.info.get("kinora"), image.info.get("comment"), described)
    return next((label for text in texts if (label := Label.from_text(text))), None)


def read_animation(path: Path) -> tuple[Frames, int]:
    """The frames of a GIF or WebP and their number a second.

    These formats store a frame that lasts longer but once; here it comes back as often as it is
    shown.
    """
    with quiet(), path.open("rb") as file:
        image = header(file, str(path))
        label = label_of(image)
        count: int = getattr(image, "n_frames", 1)
        if count * image.width * image.height > _MAX_ANIMATION:
            raise MediaError(f"{path}: {count} frames of {image.size} are too many. Shorten it")
        pictures, durations = list[UInt8[np.ndarray, "h w 3"]](), list[int]()
        for picture in ImageSequence.Iterator(image):
            pictures.append(np.asarray(picture.convert("RGB")))
            durations.append(int(picture.info.get("duration", 0)))
        is_gif = image.format == "GIF"
    shown = max(1, round(1000 * len(pictures) / (sum(durations) or 1000)))
    fps = label.fps if label else shown
    if label and len(pictures) == 1:
        return np.stack(pictures * label.frames), fps
    pace = min(fps, _GIF_FASTEST) if is_gif else fps
    ends = [round(end * pace / 1000) for end in np.cumsum([0, *durations]).tolist()]
    times = [last - first for first, last in pairwise(ends)]
    shown_frames = [p for p, n in zip(pictures, times, strict=True) for _ in range(n)]
    return np.stack(shown_frames or pictures), fps


def read_folder(path: Path) -> tuple[Frames, int]:
    """The frames of a folder that `write_folder` made, and their number a second."""
    files = sorted(f for f in path.iterdir() if FRAME_NAME.fullmatch(f.name))
    if not files:
        raise MediaError(f"{path}: holds no frames (frame-0001.png, frame-0002.png, …)")
    pictures = list[UInt8[np.ndarray, "h w 3"]]()
    label: Label | None = None
    with quiet():
        for name in files:
            with name.open("rb") as file:
                image = header(file, str(name))
                label = label or label_of(image)
                pictures.append(np.asarray(image.convert("RGB")))
    if label is None:
        raise MediaError(f"{path}: its frames don't say how many a second; Kinora didn't write it")
    if len({picture.shape for picture in pictures}) != 1:
        raise MediaError(f"{path}: its frames differ in size")
    return np.stack(pictures), label.fps


def _durations(frames: int, fps: int, tick: int) -> list[int]:
    """How long each frame is shown, in ms, in whole ticks; the sum is right to the tick."""
    ends = [tick * round(number * 1000 / fps / tick) for number in range(frames + 1)]
    return [end - start for start, end in pairwise(ends)]
