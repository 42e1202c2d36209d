"""What the body of a request in OpenAI's protocol has in it: a form, or JSON."""

import base64
import json
import re
from typing import Any, Final, cast

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from kinora.serve.doors.who import check_text
from kinora.serve.errors import Invalid

__all__ = ["photo_of", "read_fields", "text_of"]

MOST_VALUES: Final = 1000
"""Of a JSON body. Millions would take far more memory than they have bytes."""
DATA: Final = re.compile(r"data:image/[\w.+-]+;base64,(.*)", re.DOTALL)


async def read_fields(request: Request, most: int) -> dict[str, Any]:
    """Of a form or of JSON; none where there is no body. Raises Invalid.

    most: bytes of a field, which may be a photo.
    """
    if not request.headers.get("content-type", "").startswith("application/json"):
        async with request.form(max_part_size=most) as form:
            return {name: await _plain(value) for name, value in form.items()}
    body = await request.body()
    if sum(body.count(sign) for sign in (b"{", b"[", b",")) > MOST_VALUES:
        raise Invalid("the body has far more values than there are fields")
    try:
        fields = await run_in_threadpool(json.loads, body)
    except (ValueError, RecursionError):
        raise Invalid("the body is no JSON") from None
    if not isinstance(fields, dict):
        raise Invalid("the body must be a JSON object")
    return cast(dict[str, Any], fields)


async def _plain(value: UploadFile | str) -> bytes | str:
    return value if isinstance(value, str) else await value.read()


def text_of(fields: dict[str, Any], name: str) -> str | None:
    """Raises Invalid for what is neither a text nor a number, or too long."""
    value = fields.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float):
        raise Invalid(f"{name}: must be text")
    check_text(name, value)
    return str(value).encode(errors="replace").decode()  # JSON may hold halves of characters


def photo_of(fields: dict[str, Any]) -> bytes:
    """An uploaded file, or a data URI; nothing is fetched for a client. Raises Invalid."""
    given = fields.get("input_reference")
    if isinstance(given, bytes):
        return given
    url = fields.get("input_reference[image_url]")
    if isinstance(given, dict):
        url = cast(dict[str, Any], given).get("image_url")
    match = DATA.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        raise Invalid(
            "input_reference: must be an uploaded picture, or an image_url that is a data URI "
            "(data:image/png;base64,…); this service fetches nothing"
        )
    try:
        return base64.b64decode(match[1], validate=True)
    except ValueError:
        raise Invalid("input_reference: its base64 is damaged") from None
