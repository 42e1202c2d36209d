"""The mathematics of sampling, apart from any network: noise levels, denoisers, samplers."""

from kinora.diffusion.denoiser import ALWAYS, guidance_ramp, guided, precondition
from kinora.diffusion.samplers import SAMPLERS, Sampler, adams, dpmpp_2m, euler, heun
from kinora.diffusion.schedule import (
    SCHEDULES,
    Schedule,
    align_your_steps,
    consistency_levels,
    exponential,
    karras,
)
from kinora.diffusion.stochastic import (
    STOCHASTIC,
    Noise,
    StochasticSampler,
    consistency,
    dpmpp_2m_sde,
)

__all__ = [
    "ALWAYS",
    "SAMPLERS",
    "SCHEDULES",
    "STOCHASTIC",
    "Noise",
    "Sampler",
    "Schedule",
    "StochasticSampler",
    "adams",
    "align_your_steps",
    "consistency",
    "consistency_levels",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "euler",
    "exponential",
    "guidance_ramp",
    "guided",
    "heun",
    "karras",
    "precondition",
]
