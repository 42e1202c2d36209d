"""H.264 and VP9 through FFmpeg's libraries.  (Importing this imports PyAV.)"""

from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Interpolation
from jaxtyping import UInt8

from kinora.errors import MediaError, OutputError
from kinora.media.recipe import Label

__all__ = ["label_of", "read", "to_yuv", "write_mp4", "write_webm"]

_BT709: Final = 1
"""ITU-T H.273: the number of BT.709 as primaries, as transfer curve and as matrix."""

_CAREFUL: Final = Interpolation.BICUBIC | Interpolation.ACCURATE_RND
_DOWN: Final = _CAREFUL | Interpolation.FULL_CHR_H_INP
_UP: Final = _CAREFUL | Interpolation.FULL_CHR_H_INT

_MAX_DECODED: Final = 8 * 2**30

_SAFE: Final = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi",
}
"""Only containers of video: a playlist in disguise can't make FFmpeg open other files."""

Frames = UInt8[np.ndarray, "t h w 3"]


def write_mp4(path: Path, frames: Frames, label: Label, quality: int) -> None:
    """Write H.264 that plays everywhere: 4:2:0, BT.709 in limited range, index in front.

    4:2:0 stores colour for blocks of 2×2 pixels, so an odd width or height grows by one pixel,
    a copy of the last one.
    """
    height, width = frames.shape[1:3]
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    codec = {"crf": f"{35 - 2.5 * quality:g}", "preset": "medium"}
    _write(path, even, label, "mp4", {"movflags": "+faststart"}, "libx264", codec)


def write_webm(path: Path, frames: Frames, label: Label, quality: int) -> None:
    """Write VP9 (4:2:0, BT.709 in limited range); odd sizes stay as they are."""
    codec = {"crf": f"{60 - 5 * quality}", "b": "0", "row-mt": "1", "cpu-used": "2"}
    _write(path, frames, label, "webm", {}, "libvpx-vp9", codec)


def _write(
    path: Path,
    frames: Frames,
    label: Label,
    container: str,
    container_options: dict[str, str],
    codec: str,
    codec_options: dict[str, str],
) -> None:
    try:
        output = av.open(str(path.absolute()), "w", format=container, options=container_options)
        with output:
            output.metadata["comment"] = label.to_text()
            stream = output.add_stream(codec, rate=label.fps, options=codec_options)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            stream.codec_context.color_range = ColorRange.MPEG
            stream.codec_context.colorspace = _BT709
            stream.codec_context.color_primaries = _BT709
            stream.codec_context.color_trc = _BT709
            for number, frame in enumerate(frames):
                picture = to_yuv(frame)
                picture.pts, picture.time_base = number, Fraction(1, label.fps)
                output.mux(stream.encode(picture))
            output.mux(stream.encode(None))
    except OSError:
        raise
    except (FFmpegError, ValueError) as error:
        raise OutputError(f"{codec} can't write this clip: {error}") from error


def to_yuv(frame: UInt8[np.ndarray, "h w 3"]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=_BT709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=_DOWN,
    )


def read(path: Path) -> tuple[Frames, int]:
    """All frames of a video file, and their number a second (rounded).

    Raises MediaError when it is no video, damaged, or longer than memory should be filled with.
    """
    frames = list[UInt8[np.ndarray, "h w 3"]]()
    try:
        with av.open(str(path.absolute()), options=_SAFE) as source:
            stream = source.streams.video[0]
            label = _label(source)
            fps = max(1, round(stream.average_rate or 1))
            for picture in source.decode(stream):
                rgb = picture.reformat(format="rgb24", interpolation=_UP).to_ndarray()
                frames.append(np.asarray(rgb, dtype=np.uint8))
                if len(frames) * frames[0].nbytes > _MAX_DECODED:
                    raise MediaError(f"{path}: over 8 GiB once decoded. Cut out a shorter part")
    except (FFmpegError, OSError, IndexError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not frames:
        raise MediaError(f"{path}: holds no frames; it is damaged or cut off")
    clip = np.stack(frames)
    width, height = label.size if label else (clip.shape[2], clip.shape[1])
    if (clip.shape[2] - width, clip.shape[1] - height) in ((0, 1), (1, 0), (1, 1)):
        clip = np.ascontiguousarray(clip[:, :height, :width])
    return clip, fps


def label_of(path: Path) -> Label | None:
    """What a video file says about itself; None where it is not one of ours.

    Raises MediaError when it is no video.
    """
    try:
        with av.open(str(path.absolute()), options=_SAFE) as source:
            return _label(source)
    except (FFmpegError, OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _label(source: InputContainer) -> Label | None:
    tags = {key.lower(): text for key, text in source.metadata.items()}  # WebM shouts
    return Label.from_text(tags.get("comment"))


def _unreadable(path: Path, error: Exception) -> MediaError:
    reason = getattr(error, "strerror", None) or error
    return MediaError(f"{path}: not a video that can be read, or damaged ({reason})")
