"""The settings that the page asks for, in plain words, and what they come to."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import gradio as gr

from kinora.config import ModelConfig
from kinora.errors import RequestError
from kinora.request import FITS, SAMPLERS, Request
from kinora.serve.errors import Invalid
from kinora.spelled import parse_integer

__all__ = ["Form", "asked", "filled", "make_form", "own_shapes", "shapes"]

QUALITY: Final = (
    ("Exact: as the model means it", "exact"),
    ("Balanced: quicker, with hardly a difference", "balanced"),
    ("Fast: fine for most photos", "fast"),
    ("Draft: to see what will move", "draft"),
)
FIT: Final = dict(
    zip(
        FITS,
        ("Cut off what is too much", "Keep all, with borders", "Stretch it"),
        strict=True,
    )
)
OWN: Final = "own"
MOTION: Final = 127
NOISE: Final = 0.02


class Form(NamedTuple):
    """The inputs, in the order in which their values come."""

    shape: gr.Radio
    fit: gr.Radio
    quality: gr.Radio
    motion: gr.Slider
    noise_aug: gr.Slider
    seed: gr.Textbox
    frames: gr.Textbox
    fps: gr.Textbox
    steps: gr.Textbox
    first: gr.Textbox
    last: gr.Textbox
    sampler: gr.Dropdown


def make_form(config: ModelConfig | None) -> Form:
    """The inputs, where the page is being laid out.

    config: of the model, where it is known; what is left empty is the model's own either way.
    """
    sizes = shapes(config)
    names = [(f"{name}, {w} × {h}", f"{w}x{h}") for name, (w, h) in sizes.items()]
    shape = gr.Radio(
        [(_own_shape(config), OWN), *names],
        value=OWN,
        label="Shape",
        visible=bool(sizes),
        elem_id="shape",
    )
    fit = gr.Radio(
        [(said, name) for name, said in FIT.items()],
        value="crop",
        label="When the photo has another shape",
        elem_id="fit",
    )
    quality = gr.Radio(
        list(QUALITY),
        value="exact",
        label="Quality",
        info="Less of it is quicker.",
        elem_id="quality",
    )
    motion = gr.Slider(
        0,
        255,
        value=MOTION if config is None else config.motion,
        step=1,
        label="Motion",
        info="How much moves. Low: a breath of wind. High: large movements, more often odd ones.",
        elem_id="motion",
        buttons=[],
    )
    noise = gr.Slider(
        0,
        1,
        value=NOISE if config is None else config.noise_aug,
        step=0.01,
        label="Noise on the photo",
        info="Blurs the photo for the model. More of it: freer motion, less likeness.",
        elem_id="noise",
        buttons=[],
    )
    seed = gr.Textbox(
        label="Seed",
        info="The same seed and settings give the same clip. Empty: a new one every time.",
        placeholder="random",
        elem_id="seed",
        max_lines=1,
    )
    with gr.Accordion("More settings", open=False, elem_id="more"):
        with gr.Row(elem_classes="k-row"):
            frames = _box("Frames", config and config.frames, "frames")
            fps = _box("Frames a second", config and config.fps, "fps")
        steps = _box(
            "Steps",
            config and config.steps,
            "steps",
            "More are slower, and finer up to a point. Empty: what the quality says.",
        )
        guidance: Sequence[float | None] = (None, None) if config is None else config.guidance
        with gr.Row(elem_classes="k-row"):
            first = _box("Guidance, first frame", guidance[0], "first")
            last = _box("Guidance, last frame", guidance[1], "last")
        gr.HTML(
            '<p class="k-quiet">How closely each frame keeps to the photo. '
            "High values make colours harsh.</p>"
        )
        sampler = gr.Dropdown(
            [("what the quality says", ""), *((name, name) for name in SAMPLERS)],
            value="",
            label="Sampler",
            info="How the clip is drawn out of noise.",
            elem_id="sampler",
        )
    return Form(shape, fit, quality, motion, noise, seed, frames, fps, steps, first, last, sampler)


def asked(config: ModelConfig | None, values: Sequence[Any]) -> dict[str, Any]:
    """Fields of `kinora.Request` for the inputs' values; what is as the model has it is left out.

    Raises Invalid.
    """
    form = dict(zip(Form._fields, values, strict=True))
    motion, noise = MOTION if config is None else config.motion, NOISE
    noise = noise if config is None else config.noise_aug
    try:
        found: dict[str, Any] = {
            name: _integer(name, form[name]) for name in ("seed", "frames", "fps", "steps")
        }
        found["guidance"] = _guidance(form["first"], form["last"])
    except RequestError as error:
        raise Invalid(str(error)) from None
    if form["shape"] != OWN:
        found["size"] = shapes_by_value(config).get(form["shape"])
    found["fit"] = form["fit"] if form["fit"] != "crop" else None
    found["quality"] = form["quality"] if form["quality"] != "exact" else None
    found["motion"] = form["motion"] if form["motion"] != motion else None
    found["noise_aug"] = form["noise_aug"] if form["noise_aug"] != noise else None
    found["sampler"] = form["sampler"] or None
    return {name: value for name, value in found.items() if value is not None}


def filled(config: ModelConfig | None, job: Mapping[str, Any]) -> Form:
    """Values of the inputs for what was asked for; the seed too.

    What the form has no input for is left aside.
    """
    text = {name: "" if job.get(name) is None else str(job[name]) for name in Form._fields}
    size = "x".join(map(str, job.get("size") or ()))
    first, last = job.get("guidance") or ("", "")
    values: dict[str, Any] = {
        **text,
        "shape": size if size in shapes_by_value(config) else OWN,
        "fit": job.get("fit") or "crop",
        "quality": job.get("quality") or "exact",
        "motion": job.get("motion", MOTION if config is None else config.motion),
        "noise_aug": job.get("noise_aug", NOISE if config is None else config.noise_aug),
        "first": f"{first}",
        "last": f"{last}",
    }
    return Form(**values)


def shapes(config: ModelConfig | None) -> dict[str, tuple[int, int]]:
    """Sizes with about as many pixels as the model was trained on, but for its only own one.

    None where the model isn't known.
    """
    if config is None:
        return {}
    pixels, multiple = config.width * config.height, config.size_multiple
    long, short = max(config.width, config.height), min(config.width, config.height)
    if long == short:  # then 16:9 is as good as any
        long, short = (
            round(math.sqrt(pixels * ratio) / multiple) * multiple for ratio in (16 / 9, 9 / 16)
        )
    side = round(math.sqrt(pixels) / multiple) * multiple
    found = {"Landscape": (long, short), "Portrait": (short, long), "Square": (side, side)}
    own = own_shapes(config)
    return {name: size for name, size in found.items() if [size] != own}


def shapes_by_value(config: ModelConfig | None) -> dict[str, tuple[int, int]]:
    return {f"{w}x{h}": (w, h) for w, h in shapes(config).values()}


def own_shapes(config: ModelConfig | None) -> list[tuple[int, int]]:
    """Those of which a photo gets the nearest, where none is chosen."""
    if config is None:
        return []
    return list(
        {
            Request(image=None).resolved(config, ratio).size: None
            for ratio in ((16, 9), (9, 16), (1, 1))
        }
    )


def _own_shape(config: ModelConfig | None) -> str:
    match own_shapes(config):
        case [(width, height)]:
            return f"The model's own, {width} × {height}"
        case _:
            return "As the photo lies"


def _box(label: str, default: float | None, name: str, info: str | None = None) -> gr.Textbox:
    hint = "the model's own" if default is None else f"{default:g}"
    return gr.Textbox(
        label=label, placeholder=hint, info=info, elem_id=name, max_lines=1, min_width=100
    )


def _integer(name: str, text: str | None) -> int | None:
    return parse_integer(name, text) if text and text.strip() else None


def _guidance(first: str | None, last: str | None) -> tuple[float, float] | None:
    """Raises RequestError."""
    texts = [text.strip() for text in (first or "", last or "")]
    if not any(texts):
        return None
    if not all(texts):
        raise RequestError("guidance: fill in both, for the first and for the last frame")
    try:
        return float(texts[0]), float(texts[1])
    except ValueError:
        raise RequestError(f"guidance {texts[0]}, {texts[1]}: must be numbers") from None
