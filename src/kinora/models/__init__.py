"""The networks of Stable Video Diffusion, in plain torch."""

from kinora.models.image_encoder import ImageEncoder, preprocess
from kinora.models.unet import VideoUNet
from kinora.models.vae import VideoAutoencoder

__all__ = ["ImageEncoder", "VideoAutoencoder", "VideoUNet", "preprocess"]
