"""Checkpoints: loading, saving, and the tables between other libraries' tensor names and ours."""

from kinora.weights.diffusers import from_diffusers, to_diffusers
from kinora.weights.load import Networks, load_networks
from kinora.weights.save import save_networks
from kinora.weights.sgm import from_sgm, to_sgm

__all__ = [
    "Networks",
    "from_diffusers",
    "from_sgm",
    "load_networks",
    "save_networks",
    "to_diffusers",
    "to_sgm",
]
