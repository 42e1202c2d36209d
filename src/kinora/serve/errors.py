"""What a service refuses, in words for its clients."""

import errno
from collections.abc import Mapping
from typing import Final

from kinora.errors import KinoraError

__all__ = [
    "Broken",
    "Busy",
    "Conflict",
    "Foreign",
    "Full",
    "Invalid",
    "LeaseLost",
    "Missing",
    "OutOfRange",
    "Refused",
    "Slow",
    "TooLarge",
    "TooMany",
    "Unknown",
    "UnsupportedCharset",
    "is_full",
]

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Refused(KinoraError):
    """A client's request that isn't carried out; the message says what to do."""

    status = 400
    """Of HTTP."""
    code = "bad_request"
    """For programs."""
    retry_after: int | None = None
    """Seconds after which it may be tried again."""
    headers: Mapping[str, str] = {}
    """Of the answer, besides."""


class Unknown(Refused):
    """The token is missing, or nobody's."""

    status, code, headers = 401, "unauthorized", {"www-authenticate": "Bearer"}


class Foreign(Refused):
    """It comes from a page of another site."""

    status, code = 403, "forbidden"


class Missing(Refused):
    """There is no such thing, or it is somebody else's."""

    status, code = 404, "not_found"


class Slow(Refused):
    """The body of the request came too slowly."""

    status, code = 408, "timeout"


class Conflict(Refused):
    """It can't be done to a job in this state, or not under this key."""

    status, code = 409, "conflict"


class TooLarge(Refused):
    """More bytes, pixels or frames than this service takes."""

    status, code = 413, "too_large"


class UnsupportedCharset(Refused):
    """Its text is not in UTF-8."""

    status, code = 415, "unsupported_charset"


class OutOfRange(Refused):
    """The part of a file that is asked for begins beyond its end."""

    status, code = 416, "out_of_range"

    def __init__(self, size: int) -> None:
        super().__init__(f"the file has {size} bytes: the range begins beyond its end")
        self.headers = {"content-range": f"bytes */{size}"}


class Invalid(Refused):
    """A value that can't be meant, or a photo that can't be read."""

    status, code = 422, "invalid"


class TooMany(Refused):
    """More requests than a client may make."""

    status, code, retry_after = 429, "too_many_requests", 30


class Full(Refused):
    """The queue is full."""

    status, code, retry_after = 429, "queue_full", 60


class Busy(Refused):
    """Something that the service needs is locked, full or away for now."""

    status, code, retry_after = 503, "unavailable", 10


class Broken(Refused):
    """It went wrong here."""

    status, code = 500, "internal"


class LeaseLost(KinoraError):
    """A worker was taken for dead, and another one has its job by now."""


def is_full(error: BaseException) -> bool:
    """Whether it is, or comes of, a disk that has no room."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return error.__cause__ is not None and is_full(error.__cause__)
