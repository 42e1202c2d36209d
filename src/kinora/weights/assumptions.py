"""What other programs assume of a model where the format they read doesn't store it."""

from collections.abc import Iterator, Sequence

from kinora.config import SVD, ModelConfig
from kinora.weights.checkpoint import Format
from kinora.weights.variants import PUBLISHED

__all__ = ["forgotten_defaults", "wrongly_assumed"]

HEAD_WIDTH = SVD.unet.channels[0] // SVD.unet.heads[0]
IMAGE_HEAD_WIDTH = SVD.image_encoder.width // SVD.image_encoder.heads

DEFAULTS = ("width", "height", "frames", "steps", "guidance", "fps", "motion", "noise_aug")


def wrongly_assumed(config: ModelConfig, to: Format, noted: Sequence[str] = ()) -> str | None:
    """A warning about values that readers of this format assume to be as published, and that are
    not: their clips come out wrong, without an error. None if all are as published.

    noted: settings that the format has no place for, and that were only noted.
    """
    wrong = [*noted, *(_unsaid_in_sgm(config) if to == "sgm" else ())]
    if not wrong:
        return None
    return (
        f"{config.name} as {to}: the format doesn't store what follows. Kinora reads it back from "
        "its own metadata; other programs will make wrong clips unless it is set by hand: "
        + "; ".join(wrong)
    )


def forgotten_defaults(config: ModelConfig, to: Format) -> str | None:
    """The model's own defaults where no published model has them: other programs use theirs."""
    values = {name: getattr(config, name) for name in DEFAULTS}
    own = [
        f"{name} {value}"
        for name, value in values.items()
        if value not in [getattr(model, name) for model in PUBLISHED.values()]
    ]
    if to == "kinora" or not own:
        return None
    return f"other programs have defaults of their own; this model's are: {', '.join(own)}"


def _unsaid_in_sgm(config: ModelConfig) -> Iterator[str]:
    """A single file holds tensors only. Other widths show in their shapes; these don't."""
    if config.vae.scale != SVD.vae.scale:
        yield f"latents are scaled by {config.vae.scale}; they assume {SVD.vae.scale}"
    for name in ("sigma_min", "sigma_max", "rho"):
        value, assumed = getattr(config, name), getattr(SVD, name)
        if value != assumed:
            yield f"{name} is {value}; they assume {assumed}"
    unet, encoder = config.unet, config.image_encoder
    last = len(unet.channels) - 1  # the middle, which has attention, has the last one's heads
    widths = {
        width // heads
        for i, (width, heads) in enumerate(zip(unet.channels, unet.heads, strict=True))
        if unet.attention[i] or i == last
    }
    if widths != {HEAD_WIDTH}:
        found = " and ".join(map(str, sorted(widths)))
        yield f"the unet's attention heads are {found} wide; they assume {HEAD_WIDTH}"
    if encoder.width // encoder.heads != IMAGE_HEAD_WIDTH:
        yield (
            f"the image encoder's attention heads are {encoder.width // encoder.heads} wide; they "
            f"assume {IMAGE_HEAD_WIDTH}"
        )
