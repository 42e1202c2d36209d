"""What a clip's making has come to so far, in files, so that another process can go on."""

from collections.abc import Generator

from safetensors.torch import load, save
from torch import Tensor

from kinora.serve.errors import Missing
from kinora.serve.files import Files
from kinora.types import Condition

__all__ = ["FileJournal"]


class FileJournal:
    """A `kinora.runtime.Journal` of one job.

    What the network answers is kept in memory until `flush` writes it.
    """

    def __init__(self, files: Files, folder: str) -> None:
        self.files = files
        self.folder = folder
        self.written = 0
        """Files of answers."""
        self.fresh: list[Tensor] = []
        self.replaying = False
        """Whether the last answer was one that had been kept."""

    def condition(self) -> Condition | None:
        found = self._read("condition")
        return None if found is None else Condition(**found)

    def keep_condition(self, condition: Condition) -> None:
        self._write("condition", condition._asdict())

    def answers(self) -> Generator[Tensor]:
        while (part := self._read(f"answers-{self.written}")) is not None:
            self.written += 1
            for index in range(len(part)):
                self.replaying = True
                yield part[str(index)]

    def keep_answer(self, answer: Tensor) -> None:
        self.replaying = False
        self.fresh.append(answer.to("cpu", copy=True))

    def flush(self) -> None:
        """Write what is new."""
        if self.fresh:
            named = {str(index): answer for index, answer in enumerate(self.fresh)}
            self._write(f"answers-{self.written}", named)
            self.written += 1
            self.fresh = []

    def _read(self, name: str) -> dict[str, Tensor] | None:
        try:
            return load(self.files.read(f"{self.folder}/{name}.safetensors"))
        except Missing:
            return None

    def _write(self, name: str, tensors: dict[str, Tensor]) -> None:
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        self.files.write(f"{self.folder}/{name}.safetensors", save(plain))
