"""Preparing loaded networks to run: the same results in less time and memory."""

from kinora.runtime.decoder import decode
from kinora.runtime.memory import free_memory
from kinora.runtime.unet import PreparedUNet

__all__ = ["PreparedUNet", "decode", "free_memory"]
