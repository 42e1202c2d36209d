"""The vision transformer that embeds the photo: the image half of a CLIP, OpenCLIP's ViT-H/14."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from kinora.config import ImageEncoderConfig
from kinora.models.attention import Attention
from kinora.types import Images

__all__ = ["ImageEncoder", "preprocess"]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def preprocess(images: Images, size: int = 224) -> Float[Tensor, "b 3 {size} {size}"]:
    """Resize as the original does, whatever the shape, and normalise with CLIP's statistics.

    A Gaussian blur against aliasing if a side shrinks (kornia's rule, which the original uses),
    then bicubic interpolation with corners aligned; in fp32.
    """
    images = images.float()
    ratios = images.shape[2] / size, images.shape[3] / size
    if max(ratios) > 1:
        images = _blur(images, ratios)
    images = F.interpolate(images, (size, size), mode="bicubic", align_corners=True)
    mean, std = (images.new_tensor(value)[:, None, None] for value in (MEAN, STD))
    return ((images + 1) / 2 - mean) / std


def _blur(images: Images, ratios: tuple[float, float]) -> Images:
    """Blur each axis by its own Gaussian: σ = (ratio − 1) / 2, about four σ wide, odd."""
    kernels: list[Tensor] = []
    for ratio in ratios:
        sigma = max((ratio - 1) / 2, 0.001)
        width = int(max(4 * sigma, 3)) | 1
        at = torch.arange(width, device=images.device, dtype=torch.float32) - width // 2
        kernel = (-(at**2) / (2 * sigma**2)).exp()
        kernels.append(kernel / kernel.sum())
    rows, columns = kernels
    pad = (len(columns) // 2, len(columns) // 2, len(rows) // 2, len(rows) // 2)
    images = F.pad(images, pad, mode="reflect")
    images = F.conv2d(images, rows[:, None].expand(3, 1, -1, 1), groups=3)
    return F.conv2d(images, columns[None, :].expand(3, 1, 1, -1), groups=3)


class MLP(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dim, hidden)
        self.linear_2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, config.heads, bias=True)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config.width, config.mlp_width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """A photo's embedding: the projected class token, not normalised.

    (Dosovitskiy et al. 2021; Radford et al. 2021)
    """

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, patches = config.width, (config.image_size // config.patch_size) ** 2
        self.patch_embedding = nn.Conv2d(
            3, width, config.patch_size, stride=config.patch_size, bias=False
        )
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty(patches + 1, width))
        for embedding in (self.class_embedding, self.position_embedding):
            if not embedding.is_meta:  # where drawing nothing would import torch's compiler: 0.6 s
                nn.init.normal_(embedding, std=width**-0.5)
        self.norm_pre = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm_post = nn.LayerNorm(width)
        self.projection = nn.Linear(width, config.output_dim, bias=False)

    def encode(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 1 d"]:
        """Embed pictures that `preprocess` has prepared."""
        patches = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype))
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(tokens), 1, -1)
        x = self.norm_pre(torch.cat([first, tokens], dim=1) + self.position_embedding)
        for layer in self.layers:
            x = layer(x)
        return self.projection(self.norm_post(x[:, :1]))

    def forward(self, images: Images) -> Float[Tensor, "b 1 d"]:
        """Embed pictures in [-1, 1] of any size."""
        return self.encode(preprocess(images, self.config.image_size))
