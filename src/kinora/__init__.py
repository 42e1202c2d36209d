"""Kinora turns a still photo into a short video with Stable Video Diffusion.

    import kinora

    clip = kinora.load("nano").animate("photo.jpg", seed=0)
    clip.save("photo.mp4")

Names are loaded when first used, so that importing the package is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kinora.clip import Clip
    from kinora.config import NANO, SVD, SVD_XT, SVD_XT_1_1, ModelConfig
    from kinora.errors import (
        CheckpointError,
        DeviceError,
        KinoraError,
        KinoraWarning,
        MediaError,
        NotFiniteError,
        OccupiedError,
        OutputError,
        RequestError,
        TooLargeError,
    )
    from kinora.events import Decoded, Done, Encoded, Event, Planned, Sampled
    from kinora.loading import load
    from kinora.pipeline import Pipeline
    from kinora.request import Request

__version__ = "0.1.0"

__all__ = [
    "NANO",
    "SVD",
    "SVD_XT",
    "SVD_XT_1_1",
    "CheckpointError",
    "Clip",
    "Decoded",
    "DeviceError",
    "Done",
    "Encoded",
    "Event",
    "KinoraError",
    "KinoraWarning",
    "MediaError",
    "ModelConfig",
    "NotFiniteError",
    "OccupiedError",
    "OutputError",
    "Pipeline",
    "Planned",
    "Request",
    "RequestError",
    "Sampled",
    "TooLargeError",
    "load",
]

_HOMES = {
    "clip": ("Clip",),
    "config": ("NANO", "SVD", "SVD_XT", "SVD_XT_1_1", "ModelConfig"),
    "errors": (
        "CheckpointError",
        "DeviceError",
        "KinoraError",
        "KinoraWarning",
        "MediaError",
        "NotFiniteError",
        "OccupiedError",
        "OutputError",
        "RequestError",
        "TooLargeError",
    ),
    "events": ("Decoded", "Done", "Encoded", "Event", "Planned", "Sampled"),
    "loading": ("load",),
    "pipeline": ("Pipeline",),
    "request": ("Request",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'kinora' has no attribute {name!r}")
    return getattr(import_module(f"kinora.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
