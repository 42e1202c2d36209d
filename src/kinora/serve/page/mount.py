"""How the page becomes part of the application."""

from pathlib import Path
from typing import Any, Final, cast

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from kinora.serve.page.gate import Gate
from kinora.serve.page.layout import page
from kinora.serve.page.photos import Photos, router
from kinora.serve.service import Service

__all__ = ["mount"]

HERE: Final = Path(__file__).parent


def mount(app: FastAPI, service: Service) -> None:
    """Put the page at / of an application, behind all other routes that it has by now."""
    app.state.photos = Photos(service.settings.data / "uploads")
    service.tidied.append(app.state.photos.sweep)
    app.include_router(router)
    cast(Any, gr).mount_gradio_app(
        app,
        page(service, app.state.photos, tokens=not app.state.access.open),
        path="/",
        theme=theme(),
        css=(HERE / "page.css").read_text(),
        favicon_path=str(HERE / "icon.png"),
        footer_links=[],
        run_history=False,  # clips are in the database, where they last
        show_error=False,  # faults are for the log; refusals are shown all the same
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        allowed_paths=[],
    )
    mounted = app.router.routes[-1]
    assert isinstance(mounted, Mount)
    mounted.app = Gate(mounted.app, app.router.routes[:-1])


def theme() -> gr.Theme:
    """Fonts that every system has: none is fetched."""
    font = ["system-ui", "sans-serif"]
    made = cast(Any, gr).themes.Base(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        font=font,
        font_mono=["ui-monospace", "monospace"],
    )
    return made.set(
        body_background_fill="*neutral_50",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_weight="600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        button_large_text_weight="500",
        input_background_fill="white",
        input_background_fill_dark="*neutral_800",
        input_border_width="1px",
        input_border_color="*neutral_300",
    )
