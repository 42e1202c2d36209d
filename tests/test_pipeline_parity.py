"""Our pipeline gives diffusers' frames from the same noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kinora
from kinora.pixels import to_pixels
from tests import parity

pytestmark = pytest.mark.filterwarnings(parity.SCHEDULER_WARNING)

STEPS, FRAMES, SIZE = 4, 4, (64, 64)
FPS, MOTION, NOISE_AUG, GUIDANCE = 9, 90, 0.05, (1.0, 2.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parity.write_folder(tmp_path_factory.mktemp("parity") / "model", parity.SMALL)


def photo() -> Image.Image:
    """Smooth colours, with some grain."""
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[0 : SIZE[1], 0 : SIZE[0]] / 64
    colours = np.stack([rows, columns, 0.5 + 0.5 * np.sin(9 * rows * columns)], axis=2)
    grain = 0.1 * generator.standard_normal((*colours.shape[:2], 1))
    return Image.fromarray(((colours + grain).clip(0, 1) * 255).astype(np.uint8))


@pytest.mark.parametrize("chunk", [None, 3])
def test_from_the_same_noise_diffusers_pipeline_gives_our_frames(
    folder: Path, chunk: int | None
) -> None:
    generator = torch.Generator().manual_seed(5)
    theirs = parity.diffusers_pipeline(folder)
    frames = theirs(
        photo(),
        *SIZE,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        min_guidance_scale=GUIDANCE[0],
        max_guidance_scale=GUIDANCE[1],
        fps=FPS,
        motion_bucket_id=MOTION,
        noise_aug_strength=NOISE_AUG,
        decode_chunk_size=chunk,
        generator=generator,
        output_type="pt",
    ).frames[0]

    ours = kinora.load(folder, device="cpu")
    generator.manual_seed(5)
    condition = ours.encode(
        to_pixels([np.asarray(photo())]),
        fps=torch.tensor([float(FPS)]),
        motion=torch.tensor([float(MOTION)]),
        noise_aug=torch.tensor([NOISE_AUG]),
        pixel_noise=torch.randn((1, 3, *SIZE), generator=generator),
    )
    noise = torch.randn((1, FRAMES, 4, SIZE[1] // 4, SIZE[0] // 4), generator=generator)
    guidance = torch.linspace(*GUIDANCE, FRAMES)[None]
    *_, last = ours.sample(condition, noise, steps=STEPS, guidance=guidance)
    mine = torch.cat(list(ours.decode(last.x, chunk)), dim=1)[0]
    found = parity.difference((mine / 2 + 0.5).clamp(0, 1), frames)
    assert frames.std() > 0.05, "a comparison of nothing with nothing"
    assert found.highest < 1 / 255, found
