"""From a raw network to a denoiser: preconditioning, and classifier-free guidance.

All arithmetic here is in the precision of the latents, whatever the network's own is.
"""

import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from kinora.types import Condition, Denoiser, Latents, Network, PerClip

__all__ = ["ALWAYS", "guidance_ramp", "guided", "precondition"]

ALWAYS: Final = (0.0, math.inf)
"""Guidance at every noise level."""


def guidance_ramp(first: int | float, last: int | float, frames: int) -> Float[Tensor, " t"]:
    """The guidance scale of each frame, from the first to the last in equal steps."""
    return torch.linspace(first, last, frames, dtype=torch.float32, device="cpu")


def precondition(network: Network, condition: Condition) -> Denoiser:
    """D(x; σ) = c_skip·x + c_out·F(c_in·x; c_noise, condition), with v-prediction in EDM form.

    c_skip = 1/(σ²+1), c_out = −σ/√(σ²+1), c_in = 1/√(σ²+1), c_noise = ¼ ln σ; one σ a clip.
    Gradients flow, so that training uses it as it is. The network is handed latents in the
    precision of `condition.image`, which is therefore the network's own; c_noise keeps the
    latents' precision.  (Karras et al. 2022, equation 7; Salimans & Ho 2022)
    """

    def denoise(x: Latents, sigma: PerClip, /) -> Latents:
        level = sigma[:, None, None, None, None]
        spread = (level**2 + 1).sqrt()
        scaled = (x / spread).to(condition.image.dtype)
        output = network(scaled, sigma.log() / 4, condition).to(x.dtype)
        return (x / spread - level * output) / spread

    return denoise


def guided(
    network: Network,
    condition: Condition,
    scale: Float[Tensor, "b t"],
    interval: tuple[float, float] = ALWAYS,
    every: int = 1,
    apart: bool = False,
    without: Condition | None = None,
) -> Denoiser:
    """D_u + g·(D_c − D_u): away from what the network says without the photo; for sampling only.

    scale: g of each frame; 1 follows the condition alone, and where it is 1 throughout, the
    unconditional half is not computed. Otherwise both halves, unconditional first, are asked for
    in one call. No gradients are kept.  (Ho & Salimans 2022, equation 6)
    interval: noise levels, the lowest and the highest, outside of which the condition alone is
        followed: an approximation that saves half the work there.  (Kynkäänniemi et al. 2024)
    every: the unconditional half is computed at every n-th guided call; in between, F_c − F_u of
        the last one is used again: an approximation that saves half the work of those calls.
    apart: ask for the halves one after the other: the same in half the memory.
    without: the condition of the unconditional half, of no photo when left out.
    """
    plain = precondition(network, condition)
    without = condition.unconditional() if without is None else without
    both = None if apart else _stack(without, condition)
    calls, difference = 0, torch.empty_like(scale)

    def guide(x: Latents, c_noise: PerClip, _: Condition, /) -> Latents:
        # D is linear in F, so guiding one is guiding the other.
        nonlocal calls, difference
        if calls % every:
            given = network(x, c_noise, condition).to(c_noise.dtype)
        else:
            asked = (without, condition) if both is None else (both,)
            halves = torch.cat([network(x, c_noise, half) for half in asked])
            alone, given = halves.to(c_noise.dtype).chunk(2)
            difference = given - alone
        calls += 1
        return given + (scale[:, :, None, None, None].to(given.dtype) - 1) * difference

    towards = precondition(guide, condition)
    never = bool((scale == 1).all())
    low, high = interval

    def denoise(x: Latents, sigma: PerClip, /) -> Latents:
        alone = never or (interval != ALWAYS and not low <= sigma[0].item() <= high)
        with torch.no_grad():
            return (plain if alone else towards)(x, sigma)

    return denoise


def _stack(first: Condition, second: Condition) -> Condition:
    return Condition(
        image=torch.cat([first.image, second.image]),
        context=torch.cat([first.context, second.context]),
        vector=torch.cat([first.vector, second.vector]),
    )
