"""From photos to clips: requests become plans, which go through the steps."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from kinora import __version__
from kinora.arguments import expect
from kinora.clip import Clip
from kinora.diffusion import ALWAYS, guidance_ramp
from kinora.errors import KinoraWarning, ran_out_of_memory
from kinora.events import Decoded, Done, Encoded, Event, Planned, Sampled
from kinora.noise import Draws
from kinora.photo_cache import PhotoCache
from kinora.pixels import quantise, to_pixels
from kinora.request import Photo, Plan, Request, agree, draw_seed
from kinora.runtime import Job, Journal, MemoryPlan
from kinora.steps import Steps
from kinora.types import Latents, per_clip

__all__ = ["Pipeline"]


class Pipeline(Steps):
    """A loaded model. `animate` does all; `encode`, `sample` and `decode` are its steps."""

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
        self,
        requests: Request | Sequence[Request],
        journal: Journal | None = None,
        *,
        cache: PhotoCache | None = None,
    ) -> Iterator[Event]:
        """Make clips and tell of every step. Closing the generator cancels at once.

        Requests of one batch agree on frames, size, steps, sampler, fit and decode_chunk; photo,
        seed, motion, fps, noise_aug and guidance may differ, and don't disturb one another.
        journal: keeps what has been computed; given again, the same requests go on from there and
            come to the same clips.
        cache: given for several calls, what they have in common of their photos is read and encoded
            once; within one call it always is.
        Where memory runs out although it was planned for, the clips are begun again with a plan
        that takes less, once: `Planned` and all that follows are told anew.
        Raises RequestError and MediaError; NotFiniteError when a network's output is NaN or
        infinite; DeviceError when memory is too little whatever is done.
        """
        asked = _requests(requests)
        if journal is not None:
            expect("journal", journal, Journal, "an object with the methods of Journal")
        cache = cache or PhotoCache()
        # Drawn here, so that clips that are begun again are the same ones.
        asked = [replace(r, seed=draw_seed()) if r.seed is None else r for r in asked]
        try:
            yield from self._attempt(asked, journal, cache)
            return
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            reason = str(error).strip().split("\n", 1)[0]
        # Beyond the except, which holds on to what the first attempt had made.
        warnings.warn(
            f"out of memory ({reason}): beginning again in a way that takes less",
            KinoraWarning,
            stacklevel=2,
        )
        yield from self._attempt(asked, journal, cache, again=True)

    def _attempt(
        self,
        asked: Sequence[Request],
        journal: Journal | None,
        cache: PhotoCache,
        *,
        again: bool = False,
    ) -> Iterator[Event]:
        """again: memory ran out at the first attempt."""
        photos = cache.read([request.image for request in asked])
        plans = [
            request.resolved(self.config, photo.size)
            for request, photo in zip(asked, photos, strict=True)
        ]
        shared = agree(plans)
        cautions = [] if again else [c for request in asked for c in request.cautions(self.config)]
        for caution in dict.fromkeys(cautions):
            warnings.warn(caution, KinoraWarning, stacklevel=3)

        memory = self.arrange(plans, again=again)
        if memory is not None:
            yield Planned(memory)
        draws = [Draws(plan, self.config) for plan in plans]
        pixel_noise = torch.stack([draw.pixels() for draw in draws])  # before those of latents
        condition = None if journal is None else journal.condition()
        if condition is None:
            condition = self.encode(
                to_pixels(cache.fitted(photos, shared.size, shared.fit)),
                fps=per_clip([plan.fps for plan in plans]),
                motion=per_clip([plan.motion for plan in plans]),
                noise_aug=per_clip([plan.noise_aug for plan in plans]),
                pixel_noise=pixel_noise,
                cache=cache,
            )
            if journal is not None:
                journal.keep_condition(condition)
        yield Encoded(tuple(plans))

        def fresh() -> Latents:
            return torch.stack([draw.latents() for draw in draws]).to(self.device)

        latents = fresh()
        scale = torch.stack([guidance_ramp(*plan.guidance, shared.frames) for plan in plans])
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
        keep, tile = (None, None) if memory is None else (memory.keep, memory.tile)
        for part in self.decode(latents, shared.decode_chunk, keep=keep, tile=tile):
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

    def arrange(self, plans: Sequence[Plan], *, again: bool = False) -> MemoryPlan | None:
        """Plan how clips of one size stay within memory, and do so; None where there is plenty.

        again: memory ran out under the latest plan.
        Raises DeviceError when there is too little, whatever is done.
        """
        return self.residency.arrange(self._job(plans), again=again)

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

    @property
    def binding(self) -> str:
        """The weights and the precision of each network: what decides a clip's values, besides
        the request."""
        decoder = next(self.vae.decoder.parameters()).dtype
        parts = [self.fingerprint, self.dtype, decoder, self.quantize or "unquantized"]
        parts += ["tf32"] if self.fp32 == "tf32" else []
        return " ".join(str(part).removeprefix("torch.") for part in parts)

    def recipe(self, plan: Plan) -> dict[str, object]:
        """What to repeat a clip with; travels inside its file."""
        expect("plan", plan, Plan, "a Plan, which `Request.resolved` gives")
        return {
            "kinora": __version__,
            "model": self.config.name,
            "fingerprint": self.fingerprint,
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            **({"quantize": self.quantize} if self.quantize else {}),
            **({"tf32": True} if self.fp32 == "tf32" else {}),
            "request": plan.to_dict(),
        }


def _requests(given: Request | Sequence[Request]) -> list[Request]:
    """Raises RequestError for anything but requests, such as photos."""
    meaning = "a Request or several; `animate(photo)` makes a clip of a photo"
    if isinstance(given, Request):
        return [given]
    if not isinstance(given, list | tuple):
        expect("requests", given, Request, meaning)
    return [expect("requests", request, Request, meaning) for request in given]
