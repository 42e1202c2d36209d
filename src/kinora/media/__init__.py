"""Photos in, videos out, and the recipe that travels inside them.

Nothing here knows a network: pictures are PIL images, clips are uint8 arrays [t, h, w, 3].
"""

from kinora.media.photo import Photo, fit, load_photo
from kinora.media.target import SUFFIXES, check_output, check_place, free_name
from kinora.media.video import read_recipe, read_video, write_video, write_video_free

__all__ = [
    "SUFFIXES",
    "Photo",
    "check_output",
    "check_place",
    "fit",
    "free_name",
    "load_photo",
    "read_recipe",
    "read_video",
    "write_video",
    "write_video_free",
]
