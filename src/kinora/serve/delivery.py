"""Files on their way to clients, whole or in the part that was asked for."""

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from kinora.serve.errors import OutOfRange
from kinora.serve.files import Files

__all__ = ["deliver"]

TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
}


def deliver(files: Files, name: str, request: Request) -> Response:
    """A stored file, or the part of it that the request asks for.

    Raises Missing or OutOfRange.
    """
    size, tag = files.about(name)
    tag = f'"{tag}"'
    # Of one client only, and to be asked for again: it may have been deleted since.
    headers = {"accept-ranges": "bytes", "cache-control": "private, no-cache", "etag": tag}
    if tag in re.split(r"\s*,\s*", request.headers.get("if-none-match", "").replace("W/", "")):
        return Response(status_code=304, headers=headers)
    asked = None
    if request.headers.get("if-range", tag) == tag:  # else it has a part of another file
        asked = asked_range(request.headers.get("range", ""), size)
    start, end = asked or (0, size)
    headers["content-length"] = str(end - start)
    if asked is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
    status = 200 if asked is None else 206
    # Open before the response begins: a file that is deleted meanwhile is still read whole.
    return StreamingResponse(
        files.part(name, start, end), status, headers, TYPES[Path(name).suffix]
    )


def asked_range(header: str, size: int) -> tuple[int, int] | None:
    """The first byte asked for, and the one after the last; None where the whole file is.

    Several ranges at once, or one that can't be understood, are none (RFC 9110, 14.2).
    Raises OutOfRange.
    """
    asked = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", header)
    if not asked or not any(asked.groups()):
        return None
    first, last = asked.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= size:
        raise OutOfRange(size)
    return (start, end) if start < end else None
