"""The model that was chosen on the command line, and how it is to run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kinora.amounts import parse_bytes
from kinora.cli.check import (
    PRECISIONS,
    QUANTISATIONS,
    VARIANTS,
    check_choice,
    check_device,
    check_model,
)

if TYPE_CHECKING:
    from kinora.pipeline import Pipeline

__all__ = ["Chosen"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """Options of every command that loads a model to make clips, found to be possible.

    Raises RequestError or CheckpointError, before anything heavy is imported.
    """

    model: str
    device: str | None
    dtype: str | None
    vae_dtype: str | None
    quantize: str | None
    compiled: bool
    tf32: bool
    variant: str | None
    memory: str | None

    def __post_init__(self) -> None:
        check_device(self.device)
        check_choice("dtype", self.dtype, PRECISIONS)
        check_choice("vae_dtype", self.vae_dtype, PRECISIONS)
        check_choice("quantize", self.quantize, QUANTISATIONS)
        check_choice("variant", self.variant, VARIANTS)
        if self.memory is not None:
            parse_bytes("memory", self.memory)
        check_model(self.model)

    def load(self, *, wait: bool = True) -> "Pipeline":
        """See `kinora.load`."""
        from kinora import loading

        return loading.load(
            self.model,
            device=self.device,
            dtype=self.dtype,
            vae_dtype=self.vae_dtype,
            quantize=self.quantize,
            compiled=self.compiled,
            tf32=self.tf32,
            variant=self.variant,
            memory=self.memory,
            wait=wait,
        )

    def arguments(self) -> list[str]:
        """The same options, for another command."""
        given = {
            "--model": self.model,
            "--device": self.device,
            "--dtype": self.dtype,
            "--vae-dtype": self.vae_dtype,
            "--quantize": self.quantize,
            "--variant": self.variant,
            "--memory": self.memory,
        }
        pairs = [(name, value) for name, value in given.items() if value is not None]
        flags = ["--compile"] * self.compiled + ["--tf32"] * self.tf32
        return [part for pair in pairs for part in pair] + flags
