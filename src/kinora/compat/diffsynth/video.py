"""DiffSynth's `save_video`, `save_frames` and `VideoData`."""

import re
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Shaped
from numpy import ndarray
from PIL import Image

from kinora.compat.pictures import Picture, write
from kinora.errors import MediaError
from kinora.media import fit, load_photo, read_video

__all__ = ["VideoData", "save_frames", "save_video"]


def save_video(
    frames: Sequence[Picture] | Shaped[ndarray, "..."],
    save_path: str | Path,
    fps: int | float,
    quality: int | float = 9,
    ffmpeg_params: Sequence[str] | None = None,
) -> None:
    """Write frames as a video; replaces a file of that name.

    save_path: .mp4, .webm, .gif or .webp. quality: 0 to 10. ffmpeg_params: taken, without effect.
    """
    write(frames, save_path, ".mp4", fps, quality)


def save_frames(frames: Sequence[Image.Image], save_path: str | Path) -> None:
    """Write frames as 0.png, 1.png and so on."""
    folder = Path(save_path)
    folder.mkdir(parents=True, exist_ok=True)
    for index, frame in enumerate(frames):
        frame.save(folder / f"{index}.png")


class VideoData:
    """The frames of a video file or of a folder of pictures, as a sequence of PIL images.

    height, width: what frames are cropped and scaled to, both or neither.
    """

    def __init__(
        self,
        video_file: str | Path | None = None,
        image_folder: str | Path | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> None:
        if video_file is not None:
            self._frames = [Image.fromarray(frame) for frame in read_video(video_file)[0]]
        elif image_folder is not None:
            self._frames = [load_photo(path) for path in _pictures(Path(image_folder))]
        else:
            raise MediaError("VideoData: neither video_file nor image_folder is given; name one")
        self.length: int | None = None
        self.set_shape(height, width)

    def set_shape(self, height: int | None, width: int | None) -> None:
        self.height, self.width = height, width

    def set_length(self, length: int | None) -> None:
        """Let it end after so many frames."""
        self.length = length

    def shape(self) -> tuple[int, int]:
        """Height and width."""
        width, height = self[0].size
        return height, width

    def raw_data(self) -> list[Image.Image]:
        """All frames."""
        return [self[index] for index in range(len(self))]

    def __len__(self) -> int:
        return len(self._frames) if self.length is None else self.length

    def __getitem__(self, item: int) -> Image.Image:
        frame = self._frames[item]
        if self.height is None or self.width is None or frame.size == (self.width, self.height):
            return frame
        return Image.fromarray(fit(frame, (self.width, self.height), "crop"))


def _pictures(folder: Path) -> list[Path]:
    """Pictures in a folder, 2.png before 10.png."""
    found = [path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
    if not found:
        raise MediaError(f"{folder}: holds no .png or .jpg. Name a folder of frames")

    def numbers(path: Path) -> list[tuple[int, str]]:
        parts = re.findall(r"\d+|\D+", path.name)
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(found, key=numbers)
