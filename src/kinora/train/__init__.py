"""Training: functions over explicit state, resumed by calling them again."""

from kinora.train.progress import Progress, Report
from kinora.train.settings import UNetTraining, VAETraining
from kinora.train.unet import train_unet
from kinora.train.vae import train_vae

__all__ = ["Progress", "Report", "UNetTraining", "VAETraining", "train_unet", "train_vae"]
