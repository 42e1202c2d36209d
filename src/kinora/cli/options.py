"""Options in words, for `kinora animate` and the others.

They are taken as text, because messages about wrong values are ours and name the value; `Request`
knows what is right.
"""

from typing import Annotated

import typer

from kinora.cli.check import PRECISIONS, QUANTISATIONS, VARIANTS
from kinora.config import CONSISTENCY_STEPS, MAX_CONSISTENCY_STEPS
from kinora.request import FITS, QUALITIES, SAMPLERS, SCHEDULES

__all__ = [
    "Compile",
    "DType",
    "DecodeChunk",
    "Device",
    "Fit",
    "Fps",
    "Frames",
    "Guidance",
    "GuidanceEvery",
    "GuidanceInterval",
    "InnerEvery",
    "Json",
    "Memory",
    "Model",
    "Motion",
    "NoiseAug",
    "Output",
    "Overwrite",
    "Photos",
    "Quality",
    "Quantize",
    "Quiet",
    "Sampler",
    "Schedule",
    "Seed",
    "Seeds",
    "Size",
    "Steps",
    "Tf32",
    "VaeDType",
    "Variant",
    "VideoQuality",
]

OWN = "the model's own"

Photos = Annotated[
    list[str],
    typer.Argument(
        metavar="PHOTO",
        show_default=False,
        help="JPEG, PNG, WebP, BMP, TIFF or GIF; several, or patterns such as '*.jpg'.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        show_default="the photo's name in the current folder, or the next free one: photo-2.mp4",
        help="Name ending in .mp4, .webm, .gif or .webp; without an ending, a folder of PNGs. "
        "With several clips, or a slash at the end: a folder to put photo.mp4 into.",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="nano (bundled), svd, svd-xt or svd-xt-1.1; a hub id, a folder or a file.",
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="told by the file or its name",
        help=f"Which published model a single file holds, where it doesn't tell: "
        f"{', '.join(VARIANTS)}.",
    ),
]
Frames = Annotated[
    str | None, typer.Option(metavar="N", show_default=OWN, help="Length in frames, 1-256.")
]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        show_default="the model's own, turned the way the photo lies",
        help="Width and height in pixels, such as 1024x576: multiples of 64 for the published "
        "models, at most 4096.",
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        show_default="the model's own, or that of --quality; "
        f"{CONSISTENCY_STEPS} for --sampler consistency",
        help="Steps of the sampler, 1-1000; more take longer. The consistency sampler takes "
        f"1-{MAX_CONSISTENCY_STEPS}.",
    ),
]
Fps = Annotated[
    str | None,
    typer.Option(metavar="N", show_default=OWN, help="Frames a second that the viewer sees, 1-60."),
]
Motion = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        show_default=OWN,
        help="How much moves, 0 (little) to 255 (much); others say motion_bucket_id.",
    ),
]
NoiseAug = Annotated[
    str | None,
    typer.Option(
        metavar="X",
        show_default=OWN,
        help="Deviation of the noise added to the photo, 0-1 where pixels are from -1 to 1; "
        "more lets the clip stray further from it.",
    ),
]
Guidance = Annotated[
    str | None,
    typer.Option(
        metavar="MIN:MAX",
        show_default=OWN,
        help="Guidance scale of the first and of the last frame, such as 1:3, each 0-100; "
        "1 switches it off.",
    ),
]
Seed = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        show_default="drawn for each photo, and stored in the clip",
        help="Chance: a whole number from 0 to 2^63 - 1. The same seed gives the same clip.",
    ),
]
Seeds = Annotated[
    str,
    typer.Option(
        metavar="N",
        help="Variations of each photo, 1-10000; their seeds are seed, seed + 1, seed + 2 and so "
        "on.",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default=f"{SAMPLERS[0]}, or that of --quality",
        help=f"How to sample: {', '.join(SAMPLERS)}.",
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="karras, or consistency for the sampler of that name",
        help=f"Where its noise levels lie: {', '.join(SCHEDULES)}.",
    ),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(
        metavar="LOW:HIGH",
        show_default="all",
        help="Noise levels at which there is guidance, such as 0.1:50; beyond them half the work "
        "is saved, and the clip changes.",
    ),
]
Fit = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default=FITS[0],
        help=f"How a photo of another shape is fitted: {', '.join(FITS)}.",
    ),
]
DecodeChunk = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        show_default="the whole clip",
        help="Frames decoded at a time, 1-256; few need less memory, but change pixels where "
        "chunks meet.",
    ),
]
VideoQuality = Annotated[
    str,
    typer.Option(metavar="N", help="Of .mp4, .webm and .webp files: 1 (small) to 10 (good)."),
]
Quality = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="exact",
        help=f"{', '.join(QUALITIES)}: ever quicker, ever further from exact. Chooses sampler, "
        "steps and what is used again where you don't.",
    ),
]
GuidanceEvery = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        show_default="that of --quality",
        help="Compute guidance at every N-th call of the network, 1-100, and use it again in "
        "between.",
    ),
]
InnerEvery = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        show_default="that of --quality",
        help="Compute the network's inner blocks at every N-th call, 1-100, and use what they "
        "gave again in between.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="the best there is",
        help="Where to compute: cuda, cuda:1, mps or cpu.",
    ),
]
DType = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        show_default="float16 on cuda, else float32",
        help=f"Precision of the networks: {', '.join(PRECISIONS)}.",
    ),
]
VaeDType = Annotated[
    str | None,
    typer.Option(
        "--vae-dtype",
        metavar="NAME",
        show_default="that of --dtype",
        help="Precision of decoding; the original decodes in float32.",
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="not at all",
        help=f"What the UNet's linear layers multiply in: {', '.join(QUANTISATIONS)} (on a GPU). "
        "Less time and memory; the clip changes a little.",
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Have torch compile the UNet's blocks: the first clip of each size takes minutes "
        "longer, later ones are quicker. What was compiled is kept on disk.",
    ),
]
Tf32 = Annotated[
    bool,
    typer.Option(
        "--tf32",
        help="Let an NVIDIA GPU multiply fp32 in TF32: quicker, with about float16's error. "
        "Without it fp32 is fp32, whatever torch's own default.",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="AMOUNT",
        show_default="what is free",
        help="How much may be held at most, such as 6GiB; time is given up for it, no quality.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--yes", "-y", help="Overwrite what has the name given with -o.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print a JSON object a line, for other programs.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
