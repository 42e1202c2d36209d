"""DiffSynth-Studio's `ModelManager` and `SVDVideoPipeline`, as of its 1.x line, over our pipeline.

    from kinora.compat.diffsynth import ModelManager, SVDVideoPipeline, save_video

docs/compat.md says what is kept, what is mended, and what its defaults do to a clip.
"""

from kinora.compat.diffsynth.manager import ModelManager
from kinora.compat.diffsynth.pipeline import SVDVideoPipeline
from kinora.compat.diffsynth.video import VideoData, save_frames, save_video

__all__ = ["ModelManager", "SVDVideoPipeline", "VideoData", "save_frames", "save_video"]
