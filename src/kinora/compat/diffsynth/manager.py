"""DiffSynth's `ModelManager`: it holds the model that pipelines are made of."""

from collections.abc import Sequence
from pathlib import Path

import torch

from kinora.compat.place import dtype_name, place
from kinora.errors import CheckpointError
from kinora.loading import load
from kinora.pipeline import Pipeline
from kinora.weights.hub import HUB_IDS

__all__ = ["ModelManager"]


class ModelManager:
    """Loads one model.

    torch_dtype, device: as `kinora.load` picks them when left out: float16 on a GPU, which are
        DiffSynth's own defaults, float32 on a CPU.
    model_id_list: DiffSynth's names of the published models ("stable-video-diffusion-img2vid-xt"),
        or whatever `kinora.load` takes as a source.
    downloading_priority: taken, without effect: models come from the Hugging Face hub.
    file_path_list: files or folders.
    Raises CheckpointError, also when it is to hold more than one model.
    """

    def __init__(
        self,
        torch_dtype: torch.dtype | None = None,
        device: str | None = None,
        model_id_list: Sequence[str | Path] = (),
        downloading_priority: Sequence[str] = (),
        file_path_list: Sequence[str | Path] = (),
    ) -> None:
        self.torch_dtype, self.device = torch_dtype, device
        self.pipeline: Pipeline | None = None
        self.load_models([*map(_source, model_id_list), *file_path_list])

    def load_models(self, file_path_list: Sequence[str | Path]) -> None:
        """Load a model from the file or folder named."""
        for path in file_path_list:
            self.load_model(path)

    def load_model(self, file_path: str | Path) -> None:
        """Load a model from a file or folder."""
        if self.pipeline is not None:
            raise CheckpointError(
                f"{file_path}: {self.pipeline.config.name} is loaded already, and one manager "
                "holds one model here. Patches such as ExVideo can't be added to it"
            )
        dtype = None if self.torch_dtype is None else dtype_name(self.torch_dtype)
        self.pipeline = load(file_path, device=self.device, dtype=dtype)

    def to(self, device: str | torch.device) -> None:
        """Move what is loaded."""
        self.device = str(device)
        if self.pipeline is not None:
            place(self.pipeline, device)


def _source(name: str | Path) -> str | Path:
    """A hub id, where DiffSynth's name of a model is one without its owner."""
    hub_id = f"stabilityai/{name}"
    return hub_id if hub_id in HUB_IDS.values() else name
