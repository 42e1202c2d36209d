"""Preparing loaded networks to run: the same results in less time and memory."""

from kinora.runtime.compiled import compile_blocks
from kinora.runtime.decoder import decode
from kinora.runtime.memory import free_memory
from kinora.runtime.plan import Job, MemoryPlan, ample, choose
from kinora.runtime.quantised import quantiser
from kinora.runtime.recorded import Recorded
from kinora.runtime.remembered import Journal, Remembered
from kinora.runtime.residency import Residency
from kinora.runtime.reuse import Reusing
from kinora.runtime.sizes import tile_within
from kinora.runtime.tf32 import Fp32, check_tf32, fp32_computed_as
from kinora.runtime.unet import PreparedUNet

__all__ = [
    "Fp32",
    "Job",
    "Journal",
    "MemoryPlan",
    "PreparedUNet",
    "Recorded",
    "Remembered",
    "Residency",
    "Reusing",
    "ample",
    "check_tf32",
    "choose",
    "compile_blocks",
    "decode",
    "fp32_computed_as",
    "free_memory",
    "quantiser",
    "tile_within",
]
