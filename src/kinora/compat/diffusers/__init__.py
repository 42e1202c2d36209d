"""diffusers' `StableVideoDiffusionPipeline` and its helpers, over our pipeline.

    from kinora.compat.diffusers import StableVideoDiffusionPipeline, load_image, export_to_video

docs/compat.md says what is kept and what is mended.
"""

from kinora.compat.diffusers.files import export_to_gif, export_to_video, load_image
from kinora.compat.diffusers.pipeline import (
    StableVideoDiffusionPipeline,
    StableVideoDiffusionPipelineOutput,
)

__all__ = [
    "StableVideoDiffusionPipeline",
    "StableVideoDiffusionPipelineOutput",
    "export_to_gif",
    "export_to_video",
    "load_image",
]
