"""Training runs of a tiny model that last seconds."""

from kinora.config import TINY
from kinora.synthetic import SceneConfig
from kinora.train import UNetTraining, VAETraining

SCENES = SceneConfig(shapes=6, layers=2, oversample=1.0)
VAE = VAETraining(
    model=TINY, steps=4, size=16, pool_size=20, clips=1, frames=2, pool=2,
    scenes=SCENES, warm_up=2, report_every=1, save_every=2, device="cpu", workers=1,
)  # fmt: skip
UNET = UNetTraining(
    model=TINY, steps=4, width=32, height=16, frames=2, clips=4, batch=2, scenes=SCENES, warm_up=2,
    sample_steps=1, report_every=1, save_every=2, sample_every=4, device="cpu", workers=1,
    optimizer="muon", flow_weight=0.1,
)  # fmt: skip
