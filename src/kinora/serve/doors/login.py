"""How a browser shows its token: once, for a cookie that no script can read."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from kinora.serve.errors import Unknown
from kinora.serve.guard import COOKIE

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

YEAR = 365 * 24 * 3600

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Kinora</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif }}
form {{ display: grid; gap: .75rem; width: min(22rem, 90vw); margin: 18vh auto }}
h1, p {{ margin: 0 }}
input, button {{ font: inherit; padding: .6rem .8rem; border-radius: 6px; border: 1px solid #8888 }}
button {{ background: #4f46e5; color: #fff; border: 0; cursor: pointer }}
:focus-visible {{ outline: 3px solid #818cf8; outline-offset: 2px }}
[role=alert] {{ color: light-dark(#b42318, #fda29b) }}
</style>
<form method="post"><h1>Kinora</h1>
<label for="token">Your token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button>Come in</button><p role="alert">{said}</p></form></html>
"""


@router.get("/login")
def ask() -> Response:
    return HTMLResponse(PAGE.format(said=""))


@router.post("/login")
def enter(request: Request, token: Annotated[str, Form()]) -> Response:
    try:
        request.app.state.access.client(token.strip())
    except Unknown:
        return HTMLResponse(
            PAGE.format(said="This token is nobody's. Ask whoever runs this service for one."), 401
        )
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        COOKIE,
        token.strip(),
        max_age=YEAR,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
def leave() -> Response:
    """Let go of the cookie."""
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer
