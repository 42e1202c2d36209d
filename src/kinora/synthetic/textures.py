"""A fixed set of textures that shapes are filled with."""

import math
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from kinora.synthetic.chance import Chance

__all__ = ["PATTERNS", "SIZE", "SMOOTH", "texture_bank"]

SIZE = 256
"""Side of a texture, which tiles without a seam."""
SMOOTH = 16
"""How many textures at the front of the bank are 1/f noise; patterns follow."""
PATTERNS = 8


@cache
def texture_bank(device: torch.device) -> Float[Tensor, "k s s"]:
    """Textures of mean 0 and deviation 1: 1/f noise, even and grained, then stripes and dots."""
    chance = Chance(0)
    noise = [_noise(chance, slope=1.0 + 0.06 * k, grain=0.0) for k in range(SMOOTH - 6)]
    noise += [_noise(chance, slope=1.3, grain=1.5 + 0.3 * k) for k in range(6)]
    patterns = [_pattern(chance, k) for k in range(PATTERNS)]
    textures = torch.stack(noise + patterns)
    textures = textures - textures.mean((1, 2), keepdim=True)
    return (textures / textures.std((1, 2), keepdim=True)).clamp(-2.5, 2.5).to(device)


def _noise(chance: Chance, slope: float, grain: float) -> Float[Tensor, "s s"]:
    """Noise whose amplitude falls as 1/f^slope, drawn out along one direction by `grain`."""
    f = (torch.arange(SIZE) + SIZE // 2) % SIZE - SIZE / 2  # cycles, in the order of the FFT
    fy, fx = f[:, None], f[None, :]
    angle = float(chance.uniform(1)) * math.pi
    along = fx * math.cos(angle) + fy * math.sin(angle)
    across = fy * math.cos(angle) - fx * math.sin(angle)
    radius = torch.sqrt((along * math.exp(grain)) ** 2 + across**2 + 1.0)
    amplitude = radius**-slope
    amplitude[0, 0] = 0
    phases = torch.polar(amplitude, 2 * math.pi * chance.uniform(SIZE, SIZE))
    return torch.view_as_real(torch.fft.ifft2(phases))[..., 0]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


def _pattern(chance: Chance, k: int) -> Float[Tensor, "s s"]:
    """Stripes, checks or dots with soft edges, a little uneven."""
    at = torch.arange(SIZE) * (2 * math.pi / SIZE)
    y, x = at[:, None], at[None, :]
    warp = 0.3 * _noise(chance, slope=2.0, grain=0.0)
    warp = warp / warp.std() * 0.4
    high = (10, 14, 20, 26)[k % 4]
    low = int(chance.integer(high, 1))
    first = torch.sin(high * x + low * y + warp)
    second = torch.sin(high * y - low * x + warp)
    wave = first if k < PATTERNS // 2 else first * second
    return torch.tanh(4 * wave) + 0.5 * warp
