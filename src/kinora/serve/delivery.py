"""Files on their way to clients, whole or in the part that was asked for."""

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from kinora.serve.files import Files

__all__ = ["TYPES", "deliver"]

TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
}


def deliver(files: Files, name: str, request: Request, *, download: str | None = None) -> Response:
    """A stored file.

    download: the name under which a browser is to save it, rather than show it.
    Raises Missing.
    """
    size, kind = files.size(name), TYPES[Path(name).suffix]
    if files.is_local:
        return FileResponse(files.path(name), media_type=kind, filename=download)
    headers = {"accept-ranges": "bytes", "content-length": str(size)}
    if download is not None:
        headers["content-disposition"] = f'attachment; filename="{download}"'
    start, end, status = 0, size, 200
    asked = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", ""))
    if asked and any(asked.groups()):
        first, last = asked.groups()
        start = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        if start >= end:
            return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
        status = 206
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        headers["content-length"] = str(end - start)
    return StreamingResponse(files.part(name, start, end), status, headers, kind)
