"""Clips to and from files, by suffix."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from jaxtyping import UInt8

from kinora.arguments import as_integer, as_path, expect, shown
from kinora.errors import MediaError, RequestError
from kinora.media import stills
from kinora.media.picture import header, quiet
from kinora.media.recipe import Label, plain
from kinora.media.target import check_output, check_place, draft, publish, publish_free

__all__ = [
    "DEFAULT_QUALITY",
    "as_frames",
    "read_recipe",
    "read_video",
    "write_video",
    "write_video_free",
]

DEFAULT_QUALITY: Final = 8
MAX_FPS: Final = 240

Frames = UInt8[np.ndarray, "t h w 3"]


def write_video(
    path: str | Path,
    frames: Frames,
    fps: int,
    recipe: Mapping[str, Any],
    *,
    quality: int = DEFAULT_QUALITY,
    overwrite: bool = False,
) -> Path:
    """Write a clip under a name of one's own choice, in the format that its suffix says.

    path: .mp4 (H.264), .webm (VP9), .gif, .webp (animated), or no suffix: a folder of PNGs named
        frame-0001.png and so on. Missing folders are made.
    frames: RGB, uint8 [t, h, w, 3]. An .mp4 of odd width or height is a pixel larger (a copy of
        its edge), which `read_video` takes off again.
    fps: 1–240; GIF shows at most 50. The clip lasts frames / fps seconds.
    recipe: JSON values, stored inside the file; `read_recipe` gives them back.
    quality: 1 (small) to 10 (good), for .mp4, .webm and .webp; 8 looks like the frames.
    overwrite: replace what has this name: a file, or a folder that holds nothing but frames.
    Returns the path. The file appears under its name only when complete; after a failure or
    Ctrl-C nothing is left behind.
    Raises OutputError when the name is taken, its suffix unknown, or writing fails; RequestError
    when a value is out of range.
    """
    target = as_path("path", path)
    frames, quality = as_frames(frames), as_integer("quality", quality, 1, 10)
    label = _label(frames, fps, recipe)
    check_output(target, overwrite=overwrite)
    with draft(target) as temporary:
        _encode(temporary, target.suffix.lower(), frames, label, quality)
        return publish(temporary, target, overwrite=overwrite)


def write_video_free(
    path: str | Path,
    frames: Frames,
    fps: int,
    recipe: Mapping[str, Any],
    *,
    quality: int = DEFAULT_QUALITY,
) -> Path:
    """Write a clip as `write_video` does, but under the next free name (photo.mp4, photo-2.mp4).

    Several processes may do so at once: each gets a name of its own, which is returned.
    """
    target = as_path("path", path)
    frames, quality = as_frames(frames), as_integer("quality", quality, 1, 10)
    label = _label(frames, fps, recipe)
    check_place(target)
    with draft(target) as temporary:
        _encode(temporary, target.suffix.lower(), frames, label, quality)
        return publish_free(temporary, target)


def read_video(path: str | Path) -> tuple[Frames, int]:
    """The frames, uint8 [t, h, w, 3], and frames a second of a video file or folder of frames.

    Raises MediaError when it is missing, no video, or damaged.
    """
    path = _existing(path)
    if path.is_dir():
        return stills.read_folder(path)
    if not _is_picture(path):
        from kinora.media import film

        return film.read(path)
    try:
        return stills.read_animation(path)
    except MediaError:
        raise
    except Exception as error:  # damaged files make the decoders raise nearly anything
        raise MediaError(f"{path}: damaged or cut off, it can't be decoded ({error})") from error


def read_recipe(path: str | Path) -> dict[str, Any] | None:
    """What a file or folder of ours was made with; None where it doesn't say.

    Raises MediaError when it is missing, or neither video nor picture.
    """
    path = _existing(path)
    if path.is_dir():
        path = path / "frame-0001.png"
        if not path.exists():
            return None
    if _is_picture(path):
        with quiet(), path.open("rb") as file:
            label = stills.label_of(header(file, str(path)))
    else:
        from kinora.media import film

        label = film.label_of(path)
    return label.recipe if label else None


def as_frames(frames: object) -> Frames:
    """Frames of a clip as an array; those of a tensor are copied to one.

    Raises RequestError unless they are uint8 [t, h, w, 3] and there are any.
    """
    if hasattr(frames, "detach") and not isinstance(frames, type):
        try:
            frames = cast(Any, frames).detach().cpu().numpy()
        except Exception as error:  # such as a tensor without values
            raise RequestError(f"frames {shown(frames)}: can't be read: {error}") from error
    array = expect("frames", frames, np.ndarray, "an array, uint8 [t, h, w, 3]")
    if 0 in array.shape or array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
        raise RequestError(
            f"frames {list(array.shape)} of {array.dtype}: must be uint8 [t, h, w, 3], not empty"
        )
    return array


def _label(frames: Frames, fps: int, recipe: Mapping[str, Any]) -> Label:
    fps = as_integer("fps", fps, 1, MAX_FPS)
    count, height, width = frames.shape[:3]
    return Label(plain(recipe), count, fps, (width, height))


def _encode(path: Path, suffix: str, frames: Frames, label: Label, quality: int) -> None:
    match suffix:
        case ".gif":
            stills.write_gif(path, frames, label)
        case ".webp":
            stills.write_webp(path, frames, label, quality)
        case "":
            stills.write_folder(path, frames, label)
        case _:
            from kinora.media import film  # PyAV is needed for these alone

            write = film.write_mp4 if suffix == ".mp4" else film.write_webm
            write(path, frames, label, quality)


def _existing(path: str | Path) -> Path:
    path = as_path("path", path)
    try:
        if not path.exists():
            raise MediaError(f"{path}: no such file. Check the name and the folder")
        if not path.is_dir():
            if not path.is_file():
                raise MediaError(f"{path}: not an ordinary file. Name a video")
            with path.open("rb") as file:
                if not file.read(1):
                    raise MediaError(f"{path}: empty, it holds no video. Make it again")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{path}: can't be read: {reason}") from error
    return path


def _is_picture(path: Path) -> bool:
    """Whether Pillow is to read it; told by its first bytes, not by its name."""
    with path.open("rb") as file:
        start = file.read(12)
    signs = (b"GIF8", b"\x89PNG", b"\xff\xd8", b"BM", b"II*\0", b"MM\0*")
    return start.startswith(signs) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")
