"""Preparing loaded networks to run: the same results in less time and memory."""

from kinora.runtime.decoder import decode
from kinora.runtime.memory import free_memory
from kinora.runtime.plan import Job, MemoryPlan, ample, choose
from kinora.runtime.residency import Residency
from kinora.runtime.reuse import Reusing
from kinora.runtime.unet import PreparedUNet

__all__ = [
    "Job",
    "MemoryPlan",
    "PreparedUNet",
    "Residency",
    "Reusing",
    "ample",
    "choose",
    "decode",
    "free_memory",
]
