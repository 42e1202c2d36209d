"""What a service is told when it starts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kinora.config import known_config
from kinora.media.picture import MAX_PIXELS

__all__ = ["OWN_NAMES", "Limits", "Settings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much one service takes on."""

    body: int = 32 << 20
    """Bytes of a request."""
    uploads: int = 128 << 20
    """Bytes of the bodies of all requests that are being received or answered; one client's are
    half of it at most."""
    room_seconds: float = 5.0
    """For which a request waits for room among them."""
    pixels: int = MAX_PIXELS
    """Of a photo."""
    frames: int = 50
    """Of a clip."""
    steps: int = 100
    side: int = 2048
    """Pixels of a clip's longer side."""
    queue: int = 1000
    """Jobs that wait at a time."""
    per_client: int = 200
    """Of those, one client's."""
    requests: int = 1200
    """Of a client in a minute."""
    upload_seconds: float = 120.0
    """Until the whole body of a request has to be there."""
    stall_seconds: float = 15.0
    """Without a byte of it."""
    keep_days: float = 30.0
    """How long jobs are kept after their end."""
    keep_bytes: int = 20 << 30
    """How much they may take; the oldest go first."""


OWN_NAMES: Final = ("kinora.sqlite*", "files", "uploads")
"""What the service keeps in its data folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One service: where its data lies, what it runs, and how much it takes on."""

    data: Path
    """Folder of this machine: the database, and files unless they are stored elsewhere."""
    model: str = "nano"
    """An alias, a hub id, a folder or a file."""
    database: str | None = None
    """URL of a PostgreSQL database; SQLite in the data folder when left out."""
    storage: str | None = None
    """URL of a place for photos and clips; the data folder when left out."""
    limits: Limits = field(default_factory=Limits)

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.data.resolve() / 'kinora.sqlite'}"

    @property
    def storage_url(self) -> str:
        return self.storage or str(self.data.resolve() / "files")

    @property
    def model_name(self) -> str:
        """What clients call the model: no path of this machine."""
        known = known_config(self.model)
        if known is not None:
            return known.name
        return Path(self.model).stem if Path(self.model).exists() else self.model
