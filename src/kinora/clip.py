"""A short video, in memory or in a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kinora.arguments import as_integer
from kinora.media import read_recipe, read_video, write_video, write_video_free
from kinora.media.recipe import plain
from kinora.media.video import as_frames

__all__ = ["Clip"]


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Frames, their speed, and what they were made with."""

    frames: UInt8[np.ndarray, "t h w 3"]
    """RGB."""
    fps: int
    """Frames a second that the viewer sees."""
    recipe: dict[str, Any]
    """JSON values: the model's fingerprint, the full request, the version of Kinora."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "frames", as_frames(self.frames))
        object.__setattr__(self, "fps", as_integer("fps", self.fps, 1))
        object.__setattr__(self, "recipe", plain(self.recipe))  # as a file gives it back

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.frames) / self.fps

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.frames.shape[2], self.frames.shape[1]

    def save(self, path: str | Path, *, overwrite: bool = False, video_quality: int = 8) -> Path:
        """Save the clip, with its recipe inside, in the format that the suffix says.

        path: .mp4 (H.264), .webm (VP9), .gif, .webp (animated), or no suffix: a folder of PNGs.
            Missing folders are made.
        overwrite: replace what has this name.
        video_quality: 1 (small) to 10 (good), for .mp4, .webm and .webp.
        Returns the path. Raises OutputError when the name is taken, its suffix unknown, or
        writing fails; then nothing is left behind.
        """
        return write_video(
            path, self.frames, self.fps, self.recipe, quality=video_quality, overwrite=overwrite
        )

    def save_free(self, path: str | Path, *, video_quality: int = 8) -> Path:
        """Save the clip under this name or, if it is taken, the next free one (photo-2.mp4).

        Returns the name it got. Otherwise like `save`.
        """
        return write_video_free(path, self.frames, self.fps, self.recipe, quality=video_quality)

    @staticmethod
    def open(path: str | Path) -> "Clip":
        """A saved clip. From .mp4, .webm, .gif and .webp the frames come back about as they were,
        from a folder of PNGs exactly; the recipe is empty where the file holds none.

        Raises MediaError when it can't be read.
        """
        frames, fps = read_video(path)
        return Clip(frames, fps, read_recipe(path) or {})
