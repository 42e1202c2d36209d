"""A loaded model at work: encode, sample, decode."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kinora.arguments import as_choice, as_integer, as_number, as_pair, expect
from kinora.device import own_precision, with_index
from kinora.diffusion import ALWAYS, SAMPLERS, SCHEDULES, STOCHASTIC, Noise, guided
from kinora.errors import DeviceError
from kinora.finite import require_finite
from kinora.photo_cache import PhotoCache
from kinora.pixels import quantise
from kinora.runtime import (
    Fp32,
    Journal,
    PreparedUNet,
    Recorded,
    Remembered,
    Residency,
    Reusing,
    compile_blocks,
    decode,
    fp32_computed_as,
    free_memory,
    quantiser,
    tile_within,
)
from kinora.types import (
    Answers,
    Condition,
    Frames,
    Images,
    Latents,
    Network,
    PerClip,
    Step,
    expect_tensor,
)
from kinora.weights import Networks
from kinora.weights.changed import Changed
from kinora.weights.fingerprint import fingerprint

__all__ = ["Steps"]


class Steps:
    """Networks that hold their weights when they work, and the steps from photos to frames."""

    def __init__(
        self,
        networks: Networks,
        unet: PreparedUNet | None = None,
        *,
        memory: int | None = None,
        quantize: str | None = None,
        compiled: bool = False,
        tf32: bool = False,
    ) -> None:
        """networks: what `load_networks` returns.

        unet: the network prepared to run, where its weights stay as they are.

        memory: bytes that may be held; what is free when left out.
        quantize: how the networks' source quantises weights, if it does.
        compiled: whether blocks are compiled, and steps recorded where that is possible.
        tf32: whether a GPU computes fp32 in TF32.
        """
        expect("networks", networks, Networks, "what kinora.weights.load_networks returns")
        self.networks = networks
        self.quantize = quantize
        self.compiled = compiled
        self.fp32: Fp32 = "tf32" if tf32 else "ieee"
        self.config = networks.config
        self.unet, self.vae = unet or networks.unet, networks.vae
        self.image_encoder = networks.image_encoder
        self.fingerprint = networks.fingerprint
        limit = None if memory is None else as_integer("memory", memory, 1, unit="bytes")
        self.residency = Residency(networks, self.unet, limit=limit, compiled=compiled)
        if compiled and isinstance(self.unet, PreparedUNet):
            compile_blocks(self.unet, self.device)

    def fill(self, *, wait: bool = True) -> None:
        """Load what isn't, if all networks fit together; else each comes when it works.

        wait: until all is loaded; otherwise the first networks may work meanwhile.
        Raises CheckpointError when weights turn out to be damaged.
        """
        staying = self.device.type == "cpu" or not self.residency.least
        if staying and self.residency.total <= 0.9 * self.residency.budget:
            self.residency.fill(wait=wait)

    def move(
        self,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        vae_dtype: torch.dtype | None = None,
    ) -> None:
        """Have the networks on another device, in another precision, or both.

        Weights are read again as they are stored, and packed again where that helps. Nothing is
        done where nothing changes. The image branch of the autoencoder stays in fp32.
        vae_dtype: precision of decoding; `dtype` when left out.
        Raises DeviceError while a clip is made, or when weights can't be quantised so.
        """
        source = self.residency.source
        if source is None or self.compiled:
            self._move_parameters(device, dtype, vae_dtype or dtype)
            return
        moved = source._replace(
            device=source.device if device is None else with_index(device),
            dtype=dtype or source.dtype,
            vae_dtype=vae_dtype or dtype or source.vae_dtype,
        )
        if moved == source._replace(device=with_index(source.device)):
            return
        if self.quantize is not None:
            prepare = quantiser(self.quantize, moved.device, moved.dtype)
            moved = moved._replace(prepare=prepare)
        self.residency.move(moved)
        self.fill()

    def change_weights(self, network: str, tensors: Mapping[str, Tensor]) -> None:
        """Replace weights of a network ("unet", "vae", "image_encoder"), and the fingerprint.

        tensors: by our names within the network, of any precision; they are copied.
        Raises DeviceError while a clip is made or when blocks are compiled, CheckpointError for
        names or shapes that have no place in the network and values that are not finite.
        """
        source = self.residency.source
        if source is None or self.compiled:
            raise DeviceError(
                f"the weights of the {network} can't be changed: they come from no file, or are "
                "compiled as they are. Save the model that you mean and load that"
            )
        named = {f"{network}.{name}": tensor for name, tensor in tensors.items()}
        changed = Changed(source.checkpoint, named)
        for name in named:
            changed.sound_tensor(name)
        self.residency.move(source._replace(checkpoint=changed))
        self.fingerprint = fingerprint(changed)
        self.fill()

    def offload(self, measures: Mapping[str, bool], device: torch.device) -> None:
        """Have the networks work on a device without staying there.

        measures: the fewest that a memory plan takes from now on ({"turns": True}: networks are
            there one after the other; {"turns": True, "streaming": True}: the UNet's blocks, too).
            On a CPU, where the weights are anyway, plans are made as ever.
        """
        self.residency.least = measures
        self.move(device)

    def _move_parameters(
        self,
        device: torch.device | None,
        dtype: torch.dtype | None,
        vae_dtype: torch.dtype | None,
    ) -> None:
        """The same for networks that come from no file, or were compiled as they are."""
        self.residency.settle()
        for network in (self.unet, self.image_encoder):
            network.to(device=device, dtype=dtype)
        for part in (self.vae.decoder, self.vae.post_quant_conv):
            if part is not None:
                part.to(device=device, dtype=vae_dtype)
        self.vae.to(device=device)
        if isinstance(self.unet, PreparedUNet):
            self.unet.forget()

    @property
    def device(self) -> torch.device:
        return self.residency.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    @contextmanager
    def computing(self) -> Generator[None, None, None]:
        """What surrounds every call of a network: torch's settings, which are the whole process's.

        Around a call, never around a `yield`, beyond which they would reach whoever iterates.
        """
        with (
            own_precision(self.device),
            fp32_computed_as(self.fp32, self.device),
            self.residency.limited(),
        ):
            yield

    @torch.no_grad()
    def encode(
        self,
        images: Images,
        *,
        fps: PerClip,
        motion: PerClip,
        noise_aug: PerClip,
        pixel_noise: Images,
        context: Float[Tensor, "b 1 d"] | None = None,
        cache: PhotoCache | None = None,
    ) -> Condition:
        """What the UNet is told of each photo.

        images: fitted, in [-1, 1]; the image encoder sees them as they are, the VAE with
        noise_aug · pixel_noise added, in fp32.
        fps: as the viewer sees them; the model is told one less.
        context: the image encoder's embedding, where it is to be of other pictures than `images`.
        cache: holds the encodings of earlier calls; equal pictures of one call always share theirs.
        Raises NotFiniteError when an encoder's output is not finite.
        """
        expect_tensor("images", images, "b 3 height width")
        expect_tensor("pixel_noise", pixel_noise, "b 3 height width")
        for name, value in (("fps", fps), ("motion", motion), ("noise_aug", noise_aug)):
            expect_tensor(name, value, "b")
        if context is not None:
            expect_tensor("context", context, "b n d")
        cache = cache or PhotoCache()
        images = images.to(self.device)
        noise_aug = noise_aug.to(self.device)
        noisy = images + noise_aug[:, None, None, None] * pixel_noise.to(self.device)
        moments = torch.cat(cache.encode("vae", torch.split(noisy, 1), self.encode_vae))
        if context is None:
            context = torch.cat(cache.encode("image", torch.split(images, 1), self.embed))
        mean = moments.chunk(2, dim=1)[0]
        require_finite(mean, "the VAE encoder's output", moments.dtype)
        require_finite(context, "the image encoder's output", self.dtype)
        return Condition(
            image=mean[:, None],
            context=context,
            vector=torch.stack([fps.to(self.device) - 1, motion.to(self.device), noise_aug], dim=1),
        )

    @torch.no_grad()
    def encode_vae(self, images: Sequence[Images]) -> list[Tensor]:
        """The posteriors of pictures in [-1, 1]: mean and log variance, stacked on channels."""
        with self.residency.hold("vae"), self.computing():
            return [self.vae.encode(image) for image in images]

    @torch.no_grad()
    def embed(self, images: Sequence[Images]) -> list[Tensor]:
        """The image encoder's embeddings of pictures in [-1, 1], which may differ in size."""
        with self.residency.hold("image_encoder"), self.computing():
            return [self.image_encoder(image) for image in images]

    def sample(
        self,
        condition: Condition,
        noise: Latents,
        *,
        steps: int,
        guidance: Float[Tensor, "b t"],
        interval: tuple[float, float] = ALWAYS,
        guidance_every: int = 1,
        inner_every: int = 1,
        sampler: str = "euler",
        schedule: str = "karras",
        fresh: Noise | None = None,
        apart: bool = False,
        journal: Journal | None = None,
    ) -> Iterator[Step]:
        """Walk from unit normal noise to clean latents; the last step's `x` is the result.

        noise: fp32. guidance: the scale of each frame. interval: noise levels with guidance.
        guidance_every, inner_every: calls after which guidance and the network's inner blocks are
            computed anew.
        fresh: where a sampler that adds noise on the way takes it from; torch's own generator
            when left out.
        apart: compute the halves of guidance one after the other, in half the memory.
        journal: gives the network's first answers, where it has them, and keeps the others.
        Raises NotFiniteError when the network's output is not finite.
        """
        expect("condition", condition, Condition, "what `encode` returns")
        expect_tensor("noise", noise, "b t c h w")
        expect_tensor("guidance", guidance, "b t")
        as_choice("sampler", sampler, (*SAMPLERS, *STOCHASTIC))
        as_choice("schedule", schedule, tuple(SCHEDULES))
        steps, inner_every = (
            as_integer("steps", steps, 1),
            as_integer("inner_every", inner_every, 1),
        )
        guidance_every = as_integer("guidance_every", guidance_every, 1)
        low, high = as_pair("interval", interval, "two noise levels such as (0.1, 50.0)")
        interval = (
            float(as_number("interval", low, 0, inf)),
            float(as_number("interval", high, 0, inf)),
        )
        config, noise = self.config, noise.to(self.device)
        condition = Condition(*(part.to(self.device) for part in condition))
        levels = SCHEDULES[schedule](steps, config.sigma_min, config.sigma_max, config.rho)
        x = noise * (1 + levels[0] ** 2) ** 0.5
        network = self._network(inner_every)
        if journal is not None and inner_every == 1:  # inner features aren't kept: start anew then
            network = Remembered(network, journal)
        scale = guidance.to(self.device)
        guide = guided(network, condition, scale, interval, guidance_every, apart)

        def denoise(x: Latents, sigma: PerClip, /) -> Latents:
            with self.computing():
                return guide(x, sigma)

        with self.residency.hold("unet"):
            if sampler in SAMPLERS:
                walk = SAMPLERS[sampler](denoise, x, levels)
            else:
                fresh = fresh or partial(torch.randn_like, noise)
                walk = STOCHASTIC[sampler](denoise, x, levels, fresh)
            for number, step in enumerate(walk, start=1):
                yield self.check_step(step, number, steps)

    def check_step(self, step: Step, number: int, steps: int) -> Step:
        """The step itself. Raises NotFiniteError when the UNet's output in it was not finite.

        number: which of the `steps`, counted from 1.
        """
        stage = f"the UNet's output at step {number} of {steps}"
        require_finite(step.denoised, stage, self.dtype)
        return step

    def in_own_precision(self, network: Network) -> Network:
        """A network that neither autocast nor TF32 around its calls reach. (Around a whole
        generator, the context would reach the code between its steps.)"""

        def call(x: Latents, c_noise: PerClip, condition: Condition, /) -> Answers:
            with self.computing():
                return network(x, c_noise, condition)

        return call

    def _network(self, inner_every: int) -> Network:
        """The UNet as one clip uses it."""
        if inner_every == 1 and not self.compiled:
            return self.unet
        unet = self.unet if isinstance(self.unet, PreparedUNet) else PreparedUNet(self.unet)
        recording = self.compiled and self.device.type == "cuda" and not self.residency.streaming
        network = Recorded(unet) if recording else unet
        return network if inner_every == 1 else Reusing(network, inner_every)

    def decode(
        self,
        latents: Latents,
        chunk: int | None = None,
        *,
        keep: int | None = None,
        tile: int | None = None,
    ) -> Iterator[Frames]:
        """Frames of every clip, `chunk` at a time, fp32 and not clamped.

        The whole clip at once is the definition of right, and takes little more memory than its
        frames' features do. In chunks the frames at the borders don't see each other, and the
        norms along time see less: pixels change, as they do in other libraries.
        keep: bytes of intermediate results that may be held rather than computed twice; when left
            out, those of the latest memory plan, or a quarter of what is free.
        tile: bytes that are computed along time together; likewise.
        Raises NotFiniteError when the decoder's output is not finite.
        """
        expect_tensor("latents", latents, "b t c h w")
        chunk = None if chunk is None else as_integer("chunk", chunk, 1)
        dtype = self.vae.decoder.conv_in.weight.dtype
        for part in self._decode(latents, chunk, keep, tile):
            yield require_finite(part, "the decoder's output", dtype, "--vae-dtype")

    def _decode(
        self, latents: Latents, chunk: int | None, keep: int | None, tile: int | None
    ) -> Iterator[Frames]:
        total = latents.shape[1]
        plan = self.residency.plan
        spare = keep if keep is not None else plan.keep if plan else free_memory(self.device) // 4
        tile = tile or (plan and plan.tile) or tile_within(self.device, spare)
        with self.residency.hold("vae"):
            for start in range(0, total, chunk or total):
                part = latents[:, start : start + (chunk or total)] / self.config.vae.scale
                with self.computing():
                    frames = decode(self.vae, part, keep=spare, tile=tile).float()
                yield frames

    def preview(self, denoised: Latents, frame: int = -1) -> UInt8[np.ndarray, "b height width 3"]:
        """One frame of each clip of a clean estimate, decoded by itself, quickly; never refused."""
        expect_tensor("denoised", denoised, "b t c h w")
        frame = as_integer("frame", frame, -denoised.shape[1], denoised.shape[1] - 1)
        alone = denoised[:, frame].unsqueeze(1)
        return quantise(next(self._decode(alone, None, None, None)))[:, 0]
