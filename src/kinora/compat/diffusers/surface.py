"""What programs may replace of a pipeline, and what is refused because it would be ignored."""

from typing import Any, Final, NamedTuple

from torch import Tensor

from kinora.errors import RequestError

__all__ = ["COMPONENTS", "METHODS", "Levels", "check_component", "refuse"]

COMPONENTS: Final[dict[str, tuple[str, ...]]] = {
    "unet": ("__call__",),
    "vae": ("encode", "decode"),
    "image_encoder": ("__call__",),
}
"""Networks that may be replaced by any object with diffusers' calls, and what is called of it."""

METHODS: Final = (
    "_encode_image",
    "_encode_vae_image",
    "_get_add_time_ids",
    "check_inputs",
    "decode_latents",
    "maybe_free_model_hooks",
    "prepare_latents",
    "progress_bar",
)
"""What a call calls, with diffusers' arguments: a subclass or a pipeline may have its own."""

CALL: Final = "a call never asks for it here. Override one of " + ", ".join(METHODS)
REFUSED: Final = {
    "scheduler": (
        "there are no scheduler objects here; a call is sampled by Euler's method on Karras' "
        "levels, and `sigmas` gives others. For other samplers call "
        "pipe.pipeline.animate(…, sampler=…)"
    ),
    "feature_extractor": "photos are prepared by Kinora itself. Override _encode_image",
    "video_processor": "photos and frames are prepared by Kinora itself. Override _encode_image, "
    "_encode_vae_image or decode_latents",
    "vae_scale_factor": "it follows from the model. Load another one",
    "config": "it follows from the model. Load another one",
    "components": "replace pipe.unet, pipe.vae or pipe.image_encoder",
    "model_cpu_offload_seq": "networks work in the order in which they are needed. Leave it out",
    "_exclude_from_cpu_offload": "use enable_model_cpu_offload(), or load with memory=…",
    "_optional_components": "all networks are needed. Leave it out",
    "_callback_tensor_inputs": "a callback can see latents only. Leave it out",
    "_execution_device": "use pipe.to(…) or enable_model_cpu_offload(device=…)",
    "_progress_bar_config": "use set_progress_bar_config, or override progress_bar",
    **dict.fromkeys(
        ("guidance_scale", "do_classifier_free_guidance", "_guidance_scale"),
        "pass min_guidance_scale and max_guidance_scale to the call",
    ),
    **dict.fromkeys(("num_timesteps", "_num_timesteps"), "pass num_inference_steps to the call"),
    **dict.fromkeys(("register_modules", "register_to_config"), CALL),
}
"""What diffusers would go by and a call here does not, and what to do instead."""


class Levels(NamedTuple):
    """The noise levels of a call, as far as diffusers' scheduler shows them; to be read only."""

    sigmas: Tensor
    timesteps: Tensor
    init_noise_sigma: float
    order: int = 1


def refuse(what: str, name: str) -> None:
    """Raise RequestError if `what` (an assignment or an override) would be ignored."""
    if name in REFUSED:
        raise RequestError(f"{what} {name}: {REFUSED[name]}")


def check_component(name: str, value: Any) -> None:  # noqa: ANN401
    """Raise RequestError unless an object has the calls of a network."""
    lacking = [call for call in COMPONENTS[name] if not callable(getattr(value, call, None))]
    if lacking or isinstance(value, type):
        raise RequestError(
            f"pipe.{name} = {type(value).__name__}: must be a network with diffusers' calls "
            f"({', '.join(COMPONENTS[name])}); to replace weights alone, call "
            f"pipe.{name}.load_state_dict(…)"
        )
    if type(value).__module__.startswith("kinora.") and not hasattr(value, "pipeline"):
        raise RequestError(
            f"pipe.{name}: Kinora's own {type(value).__name__} has other calls than diffusers'. "
            f"Use pipe.{name}.load_state_dict(network.state_dict())"
        )
