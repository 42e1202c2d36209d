"""From photos to clips: the only place where networks, sampler and media meet."""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from kinora import __version__
from kinora.clip import Clip
from kinora.diffusion import ALWAYS, SAMPLERS, SCHEDULES, STOCHASTIC, Noise, guided
from kinora.errors import KinoraWarning
from kinora.events import Decoded, Done, Encoded, Event, Planned, Sampled
from kinora.media import fit, load_photo
from kinora.noise import Draws
from kinora.pixels import quantise, to_pixels
from kinora.request import Photo, Plan, Request, agree
from kinora.runtime import (
    Job,
    Journal,
    PreparedUNet,
    Recorded,
    Remembered,
    Residency,
    Reusing,
    compile_blocks,
    decode,
    free_memory,
)
from kinora.types import Condition, Frames, Images, Latents, Network, PerClip, Step
from kinora.weights import Networks

__all__ = ["Pipeline"]


class Pipeline:
    """A loaded model. `animate` does all; `encode`, `sample` and `decode` are its steps."""

    def __init__(
        self,
        networks: Networks,
        unet: PreparedUNet | None = None,
        *,
        memory: int | None = None,
        quantize: str | None = None,
        compiled: bool = False,
    ) -> None:
        """unet: the network prepared to run, where its weights stay as they are.

        memory: bytes that may be held; what is free when left out.
        quantize: how the networks' source quantises weights, if it does.
        compiled: whether blocks are compiled, and steps recorded where that is possible.
        """
        self.networks = networks
        self.quantize = quantize
        self.compiled = compiled
        self.config = networks.config
        self.unet, self.vae = unet or networks.unet, networks.vae
        self.image_encoder = networks.image_encoder
        self.fingerprint = networks.fingerprint
        self.residency = Residency(networks, self.unet, limit=memory, compiled=compiled)
        if compiled and isinstance(self.unet, PreparedUNet):
            compile_blocks(self.unet, self.device)

    def fill(self, *, wait: bool = True) -> None:
        """Load what isn't, if all networks fit together; else each comes when it works.

        wait: until all is loaded; otherwise the first networks may work meanwhile.
        Raises CheckpointError when weights turn out to be damaged.
        """
        if self.residency.total <= 0.9 * self.residency.budget:
            self.residency.fill(wait=wait)

    @property
    def device(self) -> torch.device:
        return self.residency.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def animate(
        self,
        image: Photo,
        *,
        frames: int | None = None,
        size: tuple[int, int] | None = None,
        steps: int | None = None,
        fps: int | None = None,
        motion: int | None = None,
        noise_aug: float | None = None,
        guidance: tuple[float, float] | None = None,
        seed: int | None = None,
        quality: str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_every: int | None = None,
        inner_every: int | None = None,
        sampler: str | None = None,
        schedule: str | None = None,
        fit: str | None = None,
        decode_chunk: int | None = None,
    ) -> Clip:
        """Make a clip of a photo. The arguments are the fields of `Request`."""
        request = Request(
            image=image,
            frames=frames,
            size=size,
            steps=steps,
            fps=fps,
            motion=motion,
            noise_aug=noise_aug,
            guidance=guidance,
            seed=seed,
            quality=quality,
            guidance_interval=guidance_interval,
            guidance_every=guidance_every,
            inner_every=inner_every,
            sampler=sampler,
            schedule=schedule,
            fit=fit,
            decode_chunk=decode_chunk,
        )
        return self.animate_batch([request])[0]

    def animate_batch(self, requests: Sequence[Request]) -> list[Clip]:
        """Make several clips at once; see `stream` for what they must have in common."""
        for event in self.stream(requests):
            if isinstance(event, Done):
                return list(event.clips)
        raise AssertionError("a stream ends with Done")

    def stream(
        self, requests: Request | Sequence[Request], journal: Journal | None = None
    ) -> Iterator[Event]:
        """Make clips and tell of every step. Closing the generator cancels at once.

        Requests of one batch agree on frames, size, steps, sampler, fit and decode_chunk; photo,
        seed, motion, fps, noise_aug and guidance may differ, and don't disturb one another.
        journal: keeps what has been computed; given again, the same requests go on from there and
            come to the same clips.
        Raises RequestError, MediaError; CheckpointError when the weights give no numbers.
        """
        asked = [requests] if isinstance(requests, Request) else list(requests)
        photos = [load_photo(request.image) for request in asked]
        plans = [
            request.resolved(self.config, photo.size)
            for request, photo in zip(asked, photos, strict=True)
        ]
        shared = agree(plans)
        for caution in dict.fromkeys(c for request in asked for c in request.cautions(self.config)):
            warnings.warn(caution, KinoraWarning, stacklevel=2)

        memory = self.residency.arrange(self._job(plans))
        if memory is not None:
            yield Planned(memory)
        draws = [Draws(plan, self.config) for plan in plans]
        pixel_noise = torch.stack([draw.pixels() for draw in draws])  # before those of latents
        condition = None if journal is None else journal.condition()
        if condition is None:
            condition = self.encode(
                to_pixels([fit(p, shared.size, shared.fit) for p in photos]),
                fps=torch.tensor([float(plan.fps) for plan in plans]),
                motion=torch.tensor([float(plan.motion) for plan in plans]),
                noise_aug=torch.tensor([plan.noise_aug for plan in plans]),
                pixel_noise=pixel_noise,
            )
            if journal is not None:
                journal.keep_condition(condition)
        yield Encoded(tuple(plans))

        def fresh() -> Latents:
            return torch.stack([draw.latents() for draw in draws]).to(self.device)

        latents = fresh()
        scale = torch.stack([torch.linspace(*plan.guidance, shared.frames) for plan in plans])
        steps = self.sample(
            condition,
            latents,
            steps=shared.steps,
            guidance=scale,
            interval=shared.guidance_interval or ALWAYS,
            guidance_every=shared.guidance_every,
            inner_every=shared.inner_every,
            sampler=shared.sampler,
            schedule=shared.schedule,
            fresh=fresh,
            apart=memory is not None and memory.apart,
            journal=journal,
        )
        for index, step in enumerate(steps, start=1):
            latents = step.x
            yield Sampled(index, shared.steps, step.denoised)

        clips: list[list[np.ndarray]] = [[] for _ in plans]
        done = 0
        keep = None if memory is None else memory.keep
        for part in self.decode(latents, shared.decode_chunk, keep=keep):
            for clip, frames in zip(clips, quantise(part), strict=True):
                clip.append(frames)
            done += part.shape[1]
            yield Decoded(done, shared.frames)
        yield Done(
            tuple(
                Clip(np.concatenate(clip), plan.fps, self.recipe(plan))
                for clip, plan in zip(clips, plans, strict=True)
            )
        )

    def _job(self, plans: Sequence[Plan]) -> Job:
        """What takes memory of these clips, all of one size."""
        (width, height), frames = plans[0].size, plans[0].frames
        return Job(
            config=self.config,
            dtype=self.dtype,
            vae_dtype=next(self.vae.decoder.parameters()).dtype,
            clips=len(plans),
            frames=frames,
            width=width,
            height=height,
            guided=any(plan.guidance != (1.0, 1.0) for plan in plans),
            device=self.device.type,
            quantised=self.quantize is not None,
        )

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
    ) -> Condition:
        """What the UNet is told of each photo.

        images: fitted, in [-1, 1]; the image encoder sees them as they are, the VAE with
        noise_aug · pixel_noise added, in fp32.
        fps: as the viewer sees them; the model is told one less.
        context: the image encoder's embedding, where it is to be of other pictures than `images`.
        """
        images = images.to(self.device)
        noise_aug = noise_aug.to(self.device)
        noisy = images + noise_aug[:, None, None, None] * pixel_noise.to(self.device)
        with self.residency.hold("vae"):
            moments = torch.cat([self.vae.encode(image) for image in torch.split(noisy, 1)])
        if context is None:
            with self.residency.hold("image_encoder"):
                embedding = self.image_encoder(images)
        else:
            embedding = context
        return Condition(
            image=moments.chunk(2, dim=1)[0][:, None],
            context=embedding,
            vector=torch.stack([fps.to(self.device) - 1, motion.to(self.device), noise_aug], dim=1),
        )

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
        """
        config, noise = self.config, noise.to(self.device)
        condition = Condition(*(part.to(self.device) for part in condition))
        levels = SCHEDULES[schedule](steps, config.sigma_min, config.sigma_max, config.rho)
        x = noise * (1 + levels[0] ** 2) ** 0.5
        network = self._network(inner_every)
        if journal is not None and inner_every == 1:  # inner features aren't kept: start anew then
            network = Remembered(network, journal)
        scale = guidance.to(self.device)
        denoise = guided(network, condition, scale, interval, guidance_every, apart)
        with self.residency.hold("unet"):
            if sampler in SAMPLERS:
                yield from SAMPLERS[sampler](denoise, x, levels)
            else:
                fresh = fresh or partial(torch.randn_like, noise)
                yield from STOCHASTIC[sampler](denoise, x, levels, fresh)

    def _network(self, inner_every: int) -> Network:
        """The UNet as one clip uses it."""
        if inner_every == 1 and not self.compiled:
            return self.unet
        unet = self.unet if isinstance(self.unet, PreparedUNet) else PreparedUNet(self.unet)
        recording = self.compiled and self.device.type == "cuda" and not self.residency.streaming
        network = Recorded(unet) if recording else unet
        return network if inner_every == 1 else Reusing(network, inner_every)

    def decode(
        self, latents: Latents, chunk: int | None = None, *, keep: int | None = None
    ) -> Iterator[Frames]:
        """Frames of every clip, `chunk` at a time, fp32 and not clamped.

        The whole clip at once is the definition of right, and takes little more memory than its
        frames' features do. In chunks the frames at the borders don't see each other, and the
        norms along time see less: pixels change, as they do in other libraries.
        keep: bytes of intermediate results that may be held rather than computed twice; a quarter
            of what is free when left out.
        """
        frames = latents.shape[1]
        spare = free_memory(self.device) // 4 if keep is None else keep
        with self.residency.hold("vae"):
            for start in range(0, frames, chunk or frames):
                part = latents[:, start : start + (chunk or frames)] / self.config.vae.scale
                yield decode(self.vae, part, keep=spare).float()

    def preview(self, denoised: Latents, frame: int = -1) -> UInt8[np.ndarray, "b height width 3"]:
        """One frame of each clip of a clean estimate, decoded by itself, quickly."""
        alone = denoised[:, frame].unsqueeze(1)
        return quantise(next(self.decode(alone)))[:, 0]

    def recipe(self, plan: Plan) -> dict[str, object]:
        """What to repeat a clip with; travels inside its file."""
        return {
            "kinora": __version__,
            "model": self.config.name,
            "fingerprint": self.fingerprint,
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            **({"quantize": self.quantize} if self.quantize else {}),
            "request": plan.to_dict(),
        }
