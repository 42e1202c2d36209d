"""What the page consists of, and what happens when something on it is pressed."""

import html
from pathlib import Path
from typing import Any, Final, cast

import gradio as gr

from kinora.config import known_config
from kinora.serve.page.acts import Acts, Parts
from kinora.serve.page.form import make_form, own_shapes
from kinora.serve.page.photos import Photos
from kinora.serve.service import Service

__all__ = ["page"]

HERE: Final = Path(__file__).parent
PICK: Final = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-pick]');
  if (button) { trigger('pick', {id: button.dataset.pick}); kinora.look(); }
});
"""
"""Has a press on any of its buttons tell which job is meant."""

QUIETLY: Final[dict[str, Any]] = {
    "api_visibility": "private",
    "concurrency_limit": None,
    "show_progress": "hidden",
    "trigger_mode": "multiple",
}
"""How all events are handled: nobody's waits for somebody else's."""

LEAVE: Final = "<form method=post action=/logout><button class=k-link>Sign out</button></form>"
WITH_PHOTO: Final = "async (...values) => { values[0] = await kinora.photo(); return values; }"
TURNED: Final = "(shape, fit) => { kinora.frame(shape, fit); }"


def page(service: Service, photos: Photos, *, tokens: bool) -> gr.Blocks:
    """The page of a service. tokens: whether one has to sign in to it."""
    config = known_config(service.settings.model)
    model = html.escape(service.settings.model_name)
    with gr.Blocks(title="Kinora", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(
            "<header class=k-head><h1>Kinora</h1><p>A still photo becomes a short clip. "
            f"Model: {model}</p>{LEAVE if tokens else ''}</header>"
        )
        with gr.Row(elem_id="columns"):
            with gr.Column(min_width=300, scale=2, elem_id="making"):
                photo = gr.HTML(
                    html_template=(HERE / "photo.html").read_text(),
                    js_on_load=(HERE / "page.js").read_text(),
                    elem_id="photo",
                    own=" ".join(f"{w}x{h}" for w, h in own_shapes(config)),
                    most=service.limits.body,
                )
                form = make_form(config)
            with gr.Column(min_width=300, scale=3, elem_id="looking"):
                parts = _looking(photo)
    blocks.queue(default_concurrency_limit=None, api_open=False)
    with blocks:
        _wire(blocks, Acts(service, photos, config, form, parts))
    return blocks


def _looking(photo: gr.HTML) -> Parts:
    """The other half: what is being made, and what was made before."""
    with gr.Row(elem_classes="k-row", elem_id="asking"):
        make = gr.Button("Make the clip", variant="primary", elem_id="make", min_width=140)
        four = gr.Button("Four side by side", elem_id="four", min_width=140)
    stage = gr.HTML(elem_id="stage", js_on_load=PICK)
    cancel = gr.Button("Cancel", visible=False, elem_id="cancel")
    with gr.Row(visible=False, elem_classes="k-row", elem_id="actions") as actions:
        again = gr.Button("Again with another seed", elem_id="again", min_width=120)
        use = gr.Button("Use these settings", elem_id="use", min_width=120)
        delete = gr.Button("Delete", elem_id="delete", min_width=80)
    detail = gr.HTML(elem_id="detail", js_on_load=None)
    gr.HTML("<h2>Your clips</h2>")
    gallery = gr.HTML(elem_id="gallery", js_on_load=PICK)
    more = gr.Button("Show earlier ones", visible=False, elem_id="earlier")
    return Parts(
        photo=photo,
        make=make,
        four=four,
        stage=stage,
        cancel=cancel,
        actions=actions,
        again=again,
        use=use,
        delete=delete,
        detail=detail,
        gallery=gallery,
        more=more,
        shown=gr.State([]),
        ended=gr.State(0),
        pages=gr.State(0),
    )


def _wire(blocks: Any, acts: Acts) -> None:  # noqa: ANN401 (Gradio makes events at run time)
    parts, form = cast(Any, acts.parts), cast(Any, acts.form)
    on = cast(Any, gr).on
    inputs = [parts.photo, *form]
    enter = [box.submit for box in form if isinstance(box, gr.Textbox)]
    shown = parts.shown

    on([parts.make.click, *enter], acts.make, inputs, shown, js=WITH_PHOTO, **QUIETLY)
    parts.four.click(acts.make_four, inputs, shown, js=WITH_PHOTO, **QUIETLY)
    parts.again.click(acts.again, shown, shown, js="() => { kinora.look(); }", **QUIETLY)
    parts.cancel.click(acts.cancel, shown, None, **QUIETLY)
    parts.delete.click(acts.delete, shown, shown, **QUIETLY)
    used = parts.use.click(acts.use, shown, list(form), **QUIETLY)
    used.then(None, None, None, js="() => { kinora.again(); }")
    for listed in (parts.stage, parts.gallery):
        listed.pick(acts.pick, None, shown, **QUIETLY)
    on(
        [form.shape.change, form.fit.change],
        None,
        [form.shape, form.fit],
        None,
        js=TURNED,
    )
    shown.change(acts.follow, shown, acts.followed, **QUIETLY)
    parts.more.click(acts.more, parts.pages, parts.pages, **QUIETLY)
    on(
        [blocks.load, shown.change, parts.ended.change, parts.pages.change],
        acts.listing,
        [shown, parts.pages],
        [parts.gallery, parts.more],
        **QUIETLY,
    )
    blocks.load(acts.begin, None, [shown, parts.stage], **QUIETLY)
