"""What can go wrong, in words for the person who reads them.

Every message says what was wrong, with the value, and what to do about it. The command line shows
the message alone.
"""

__all__ = [
    "CheckpointError",
    "DeviceError",
    "KinoraError",
    "KinoraWarning",
    "MediaError",
    "NotFiniteError",
    "OccupiedError",
    "OutputError",
    "RequestError",
    "TooLargeError",
    "ran_out_of_memory",
]

MEMORY_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate")


class KinoraError(Exception):
    """Anything that Kinora refuses or fails at; the parent of all errors below."""


class RequestError(KinoraError, ValueError):
    """A request or a configuration holds a value that can't be meant."""


class MediaError(KinoraError):
    """A photo or video can't be read."""


class TooLargeError(MediaError):
    """A photo has more pixels or bytes than are read."""


class OutputError(KinoraError):
    """A result can't be written."""


class OccupiedError(OutputError):
    """Something else is in a result's place."""

    @classmethod
    def replaceable(cls, path: object) -> "OccupiedError":
        """Of what could be overwritten, if one asked for it."""
        return cls(
            f"{path}: exists already. Overwrite it with -y (overwrite=True), or choose another name"
        )


class CheckpointError(KinoraError):
    """A checkpoint is missing, damaged, incomplete, or not what it is said to be."""


class NotFiniteError(KinoraError):
    """A network's output, a loss or a weight is NaN or infinite."""


class DeviceError(KinoraError):
    """A device is not there, or has too little memory for what it was asked to do."""


class KinoraWarning(UserWarning):
    """Something that works, but that the user should hear about."""


def ran_out_of_memory(error: Exception) -> bool:
    """Whether torch or Python found too little memory; not of what was refused beforehand."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # torch has a class of its own for CUDA alone; the other devices raise RuntimeError.
    return isinstance(error, RuntimeError) and any(s in str(error).lower() for s in MEMORY_SIGNS)
