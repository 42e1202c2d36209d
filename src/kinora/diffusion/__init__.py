"""The mathematics of sampling, apart from any network: noise levels, denoisers, samplers."""

from kinora.diffusion.denoiser import guided, precondition
from kinora.diffusion.samplers import SAMPLERS, Sampler, dpmpp_2m, euler, heun
from kinora.diffusion.schedule import karras

__all__ = [
    "SAMPLERS",
    "Sampler",
    "dpmpp_2m",
    "euler",
    "guided",
    "heun",
    "karras",
    "precondition",
]
