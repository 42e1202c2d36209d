"""A world made from nothing: scenes seen by a moving camera, whose motion is known exactly."""

from kinora.synthetic.clips import ClipBatch, make_clips
from kinora.synthetic.config import SceneConfig

__all__ = ["ClipBatch", "SceneConfig", "make_clips"]
