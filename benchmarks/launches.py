"""How often a clip has a GPU start something: operations are counted, without a GPU.

    python -m benchmarks.launches

A GPU waits for each start, and Python prepares it: with pieces sized for a CPU that is what a clip
takes. The networks of svd-xt run without values, on torch's meta device, at 25 frames of 1024x576
in fp16, with both halves of guidance, and every operation that is more than a view or an
allocation is counted. A library may start several kernels for one of them.
"""

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kinora.config import SVD_XT
from kinora.models import VideoAutoencoder, VideoUNet
from kinora.runtime import PreparedUNet, decode
from kinora.runtime.sizes import SIZES, standing_for
from kinora.types import Condition

STEPS = 25
NOTHING = ("aten::empty", "aten::new_empty", "aten::detach", "aten::lift_fresh")


class Launches(TorchDispatchMode):
    """Counts operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        name = func._schema.name
        self.count += not func.is_view and not name.startswith(NOTHING)
        return func(*args, **(kwargs or {}))


def launches(compute: Callable[[], object]) -> int:
    with Launches() as seen:
        compute()
    return seen.count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--size", default="1024x576")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    print("| sized for | a step | decoding | a clip |")
    print("|---|---|---|---|")
    for kind in ("cpu", "cuda"):
        for tile in SIZES[kind].tiles:
            with torch.device("meta"), torch.no_grad(), standing_for(kind):
                step = a_step(options.frames, width // 8, height // 8)
                decoding = a_decoding(options.frames, width // 8, height // 8, tile)
            clip = STEPS * step + decoding
            print(
                f"| {kind}, tiles of {tile >> 20} MiB | {step} | {decoding} | {clip} |", flush=True
            )


def a_step(frames: int, width: int, height: int) -> int:
    unet = VideoUNet(SVD_XT.unet).to(torch.float16)
    unet.to(memory_format=torch.channels_last)
    prepared = PreparedUNet(unet)
    condition = Condition(
        torch.empty(2, 1, 4, height, width),
        torch.empty(2, 1, SVD_XT.unet.context_dim),
        torch.empty(2, SVD_XT.unet.vector_ids),
    )
    x, noise = torch.empty(1, frames, 4, height, width), torch.empty(1)
    prepared(x, noise, condition)  # what is computed once a clip
    return launches(lambda: prepared(x, noise, condition))


def a_decoding(frames: int, width: int, height: int, tile: int) -> int:
    vae = VideoAutoencoder(SVD_XT.vae)
    vae.decoder.to(torch.float16)
    latents = torch.empty(1, frames, 4, height, width)
    return launches(lambda: decode(vae, latents, tile=tile))


if __name__ == "__main__":
    main()
