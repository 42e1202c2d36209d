"""What a client is told of a job that failed."""

import re
from pathlib import Path

from kinora.errors import KinoraError, MediaError, RequestError
from kinora.serve.database import is_away
from kinora.serve.errors import Busy, Missing

__all__ = ["told"]


def told(error: Exception) -> dict[str, str]:
    """What a client is told of a failure."""
    match error:
        case RequestError() | MediaError():
            return {"code": "invalid", "message": str(error)}
        case Missing():
            return {"code": "photo_lost", "message": "its photo is gone from the storage"}
        case Busy():
            return {"code": "unavailable", "message": str(error)}
        case _ if is_away(error):
            message = "the database was locked, full or could not be reached. Try again"
            return {"code": "unavailable", "message": message}
        case _ if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
            return {"code": "out_of_memory", "message": "not enough memory. Ask for a smaller clip"}
        case KinoraError():
            return {"code": "failed", "message": without_paths(str(error))}
        case _:
            return {"code": "internal", "message": "a fault of this service; its log tells more"}


def without_paths(message: str) -> str:
    """A message with only the last part of each path of this machine."""
    return re.sub(
        r"(?<![\w:/])/(?:[^\s/:,;()'\"]+/)+[^\s/:,;()'\"]*", lambda m: Path(m[0]).name, message
    )
