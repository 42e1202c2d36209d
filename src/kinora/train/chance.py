"""Random numbers that depend on what they are for, never on what was drawn before.

Resuming is then nothing but running on: step 500 draws the same whether the run was interrupted or
not. Later, with several processes, each has its rank.
"""

import zlib

import numpy as np
import torch

__all__ = ["draws", "seed_of"]


def seed_of(purpose: str, seed: int, *where: int, rank: int = 0) -> int:
    """A seed for one purpose at one place of a run, such as `seed_of("noise", 0, step)`."""
    entropy = [zlib.crc32(purpose.encode()), seed, rank, *where]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def draws(purpose: str, seed: int, *where: int, rank: int = 0) -> torch.Generator:
    """A generator with that seed, on the CPU, so that the draws are the same everywhere."""
    return torch.Generator().manual_seed(seed_of(purpose, seed, *where, rank=rank))
