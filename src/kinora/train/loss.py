"""What training makes smaller."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kinora.diffusion import precondition
from kinora.types import Condition, Frames, Latents, Network, PerClip

__all__ = [
    "Loss",
    "bin_edges",
    "bin_names",
    "by_bin",
    "diffusion_loss",
    "draw_sigma",
    "flow_loss",
    "halved",
    "vae_loss",
]


class Loss(NamedTuple):
    """A loss to descend, and its parts to report."""

    total: Float[Tensor, ""]
    parts: Float[Tensor, " n"]
    """Detached; not a number where a part was not seen in this step."""


def diffusion_loss(
    network: Network, condition: Condition, clean: Latents, noise: Latents, sigma: PerClip
) -> PerClip:
    """λ(σ)·‖D(x₀ + σ·n; σ) − x₀‖² of each clip, a mean over its values; λ = (1 + σ²)/σ².

    With this preconditioning the weight makes it exactly the error of v.  One σ a clip.
    (Karras et al. 2022, equation 2; reference of SVD, section 6)
    """
    level = sigma[:, None, None, None, None]
    denoised = precondition(network, condition)(clean + level * noise, sigma)
    weight = (1 + sigma**2) / sigma**2
    return weight * (denoised - clean).square().mean((1, 2, 3, 4))


def flow_loss(
    told: Float[Tensor, "bt 2 h w"], flow: Float[Tensor, "b t 2 y x"]
) -> Float[Tensor, ""]:
    """Squared distance of the told flow from the true one, a mean over clips, frames, places."""
    size = (told.shape[2], told.shape[3])
    true = F.interpolate(flow.flatten(0, 1), size, mode="area")
    return (told - true).square().sum(1).mean()


def draw_sigma(batch: int, mean: float, std: float, generator: torch.Generator) -> PerClip:
    """Noise levels with ln σ normal, one a clip, spread over the batch.

    Each is distributed as it would be alone, but one falls in each of `batch` equally likely
    ranges, so that the loss of a small batch wavers less.
    """
    place = torch.randperm(batch, generator=generator) + torch.rand(batch, generator=generator)
    share = (place / batch).clamp(1e-6, 1 - 1e-6)
    quantile = math.sqrt(2) * torch.erfinv(2 * share - 1)
    return (mean + std * quantile).exp()


def bin_edges(mean: float, std: float) -> list[float]:
    """The noise levels that part the distribution of σ into four equally likely ranges."""
    return [math.exp(mean + std * quartile) for quartile in (-0.67449, 0.0, 0.67449)]


def bin_names(edges: Sequence[float]) -> list[str]:
    """Names of the ranges that the edges part, such as "σ 0.32–0.82"."""
    low, high = edges[0], edges[-1]
    inner = [f"σ {a:.2g}–{b:.2g}" for a, b in pairwise(edges)]
    return [f"σ<{low:.2g}", *inner, f"σ>{high:.2g}"]


def by_bin(values: PerClip, sigma: PerClip, edges: Sequence[float]) -> Float[Tensor, " n"]:
    """Mean of the values in each range of σ; not a number in a range without clips."""
    index = torch.bucketize(sigma, sigma.new_tensor(edges))
    sums = values.new_zeros(len(edges) + 1).index_add_(0, index, values)
    counts = values.new_zeros(len(edges) + 1).index_add_(0, index, torch.ones_like(values))
    return sums / counts


def vae_loss(
    made: Frames,
    frames: Frames,
    moments: Float[Tensor, "n m h w"],
    coarse: Float[Tensor, "b t 3 y x"] | None = None,
    *,
    gradient_weight: float,
    kl_weight: float,
    coarse_weight: float = 0.0,
) -> Loss:
    """L1 of pixels and of their differences, a light KL divergence, and the same at half the size.

    The differences of neighbouring pixels keep edges sharp where a discriminator would do so in
    larger models. The KL, in nats a latent value, is that of the posterior from the unit normal.
    `coarse` is what latents of half the size decode to; told to be the frames at half the size, it
    rids latents of detail that says nothing about the picture, which a diffusion model would have
    to predict. (Skorokhodov et al. 2025, "Improving the Diffusability of Autoencoders")
    Parts: the four, unweighed.
    """
    pixel, gradient = _distances(made, frames)
    mean, log_variance = moments.chunk(2, dim=1)
    kl = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
    total = pixel + gradient_weight * gradient + kl_weight * kl
    below = pixel.new_full((), math.nan)
    if coarse is not None:
        coarse_pixel, coarse_gradient = _distances(coarse, halved(frames))
        below = coarse_pixel + gradient_weight * coarse_gradient
        total = total + coarse_weight * below
    return Loss(total, torch.stack([pixel, gradient, kl, below]).detach())


def halved(clips: Tensor) -> Tensor:
    """Frames or latents [b, t, c, h, w] at half the height and width, each the mean of four."""
    return rearrange(F.avg_pool2d(clips.flatten(0, 1), 2), "(b t) c h w -> b t c h w", b=len(clips))


def _distances(made: Frames, frames: Frames) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    difference = made - frames
    return (
        difference.abs().mean(),
        difference.diff(dim=3).abs().mean() + difference.diff(dim=4).abs().mean(),
    )
