"""Checkpoints: loading, saving, and the tables between other libraries' tensor names and ours."""

from kinora.weights.convert import convert
from kinora.weights.describe import Description, describe, verify
from kinora.weights.diffusers import from_diffusers, to_diffusers
from kinora.weights.hub import DEFAULT_HUB, Hub, KnownModel, known_models, locate
from kinora.weights.load import Networks, load_networks
from kinora.weights.save import save_networks
from kinora.weights.sgm import from_sgm, to_sgm

__all__ = [
    "DEFAULT_HUB",
    "Description",
    "Hub",
    "KnownModel",
    "Networks",
    "convert",
    "describe",
    "from_diffusers",
    "from_sgm",
    "known_models",
    "load_networks",
    "locate",
    "save_networks",
    "to_diffusers",
    "to_sgm",
    "verify",
]
