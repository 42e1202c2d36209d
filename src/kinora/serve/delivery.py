"""Files on their way to clients, whole or in the part that was asked for."""

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

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
    size, kind = files.size(name), TYPES[Path(name).suffix]
    start, end = asked = asked_range(request.headers.get("range", ""), size) or (0, size)
    headers = {"accept-ranges": "bytes", "content-length": str(end - start)}
    if asked != (0, size):
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        return StreamingResponse(files.part(name, start, end), 206, headers, kind)
    if not files.is_local:
        return StreamingResponse(files.part(name, start, end), 200, headers, kind)
    # It would look at the range once more, and refuse what can't be understood.
    request.scope["headers"] = [h for h in request.scope["headers"] if h[0] != b"range"]
    return FileResponse(files.path(name), media_type=kind)


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
