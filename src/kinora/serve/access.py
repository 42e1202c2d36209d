"""Who may come in: clients, known by tokens that only their hashes are kept of."""

import hashlib
import hmac
import ipaddress
import json
import re
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

import structlog

from kinora.errors import RequestError
from kinora.serve.errors import TooMany, Unknown

__all__ = [
    "ANYONE",
    "NOBODY",
    "Access",
    "Client",
    "check_name",
    "hashed",
    "is_loopback",
    "new_token",
]


LIMITS: Final = ("requests", "jobs")
"""That a client may have of its own."""
SHORTEST: Final = 16
"""Characters of a token."""
MINUTE: Final = 60.0
REMEMBERED: Final = 10_000
"""Who came lately, at most."""

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Client:
    """Somebody who uses the service."""

    name: str
    requests: int | None = None
    """A minute, where it isn't the service's own limit."""
    jobs: int | None = None
    """That may wait at a time, likewise."""


ANYONE = Client(name="local")
"""Who comes from this machine where no tokens are asked for."""
NOBODY = Client(name="nobody")
"""Who has not shown a token yet."""


class Access:
    """Tells clients by their tokens, and counts requests."""

    def __init__(
        self, clients: Mapping[str, Client], requests: int, file: Path | None = None
    ) -> None:
        """clients: by the hashes of their tokens; empty where none is asked for.

        requests: of a client in a minute.
        file: of more clients, which is read again whenever it has changed.
        Raises RequestError when the file can't be understood.
        """
        self.fixed = clients
        self.requests = requests
        self.file = file
        self.changed = None if file is None else _changed(file)
        self.clients = {**clients, **({} if file is None else read_clients(file))}
        self.looked = time.monotonic()
        self.lock = Lock()
        self.recent: dict[str, deque[float]] = {}

    @property
    def open(self) -> bool:
        return not self.clients

    def client(self, token: str | None) -> Client:
        """Raises Unknown for a token that is missing or nobody's."""
        if self.open:
            return ANYONE
        if not token:
            raise Unknown("a token is needed: send it as 'Authorization: Bearer TOKEN'")
        self._look_again()
        mark = hashed(token)
        for known, client in self.clients.items():
            if hmac.compare_digest(known, mark):
                return client
        raise Unknown("the token is unknown. Ask whoever runs this service for one")

    def count(self, who: str, most: int | None = None) -> None:
        """Count a request of somebody who may make so many in a minute. Raises TooMany."""
        limit, now = most or self.requests, time.monotonic()
        with self.lock:
            times = self.recent.setdefault(who, deque())
            while times and times[0] < now - MINUTE:
                times.popleft()
            if len(times) >= limit:
                raise TooMany(f"more than {limit} requests in a minute. Wait a little")
            times.append(now)
            if len(self.recent) > REMEMBERED:
                self._forget(now)

    def _forget(self, now: float) -> None:
        """Of those who haven't come in the last minute, or of the first to come."""
        away = [who for who, times in self.recent.items() if times[-1] < now - MINUTE]
        for who in away or list(self.recent)[: REMEMBERED // 2]:
            del self.recent[who]

    def _look_again(self) -> None:
        """Tokens that were added or taken away hold at once. A file that got damaged doesn't."""
        now = time.monotonic()
        if self.file is None or now < self.looked + 1:
            return
        self.looked = now
        changed = _changed(self.file)
        if changed == self.changed:
            return
        self.changed = changed
        try:
            self.clients = {**self.fixed, **read_clients(self.file)}
        except RequestError as error:
            log.warning("tokens_not_read", reason=str(error))

    @staticmethod
    def of(token: str | None, file: Path | None, requests: int) -> "Access":
        """From one token, or a file of several; open where there is neither.

        Raises RequestError when the token is too short, or the file can't be understood.
        """
        if token is None:
            return Access({}, requests, file)
        if len(token.strip()) < SHORTEST:
            raise RequestError(
                f"the token has {len(token.strip())} characters: it must have {SHORTEST} or more. "
                "`openssl rand -hex 32` makes one"
            )
        return Access({hashed(token.strip()): Client(name="default")}, requests, file)


def _changed(file: Path) -> float | None:
    return file.stat().st_mtime if file.exists() else None


def read_clients(file: Path) -> dict[str, Client]:
    """A file with one JSON object a line: name, sha256 of the token, and what limits it has.

    Raises RequestError.
    """
    clients: dict[str, Client] = {}
    if not file.is_file():
        raise RequestError(f"{file}: no such file. `kinora token NAME >> {file}` makes one")
    try:
        for line in filter(str.strip, file.read_text().splitlines()):
            mark, client = _client(dict(json.loads(line)))
            clients[mark] = client
        if not clients:
            raise ValueError("there is none")
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(
            f"{file}: must have one JSON object a line, such as "
            '{"name": "studio", "sha256": "…", "jobs": 100}, as `kinora token` prints it '
            f"({error})"
        ) from None
    return clients


def check_name(name: str) -> None:
    """Raises RequestError for what can't be a client's name."""
    if not re.fullmatch(r"[\w.@ -]{1,64}", name) or name in (ANYONE.name, NOBODY.name):
        raise RequestError(
            f"name {name!r}: must be up to 64 letters, digits and . _ - @, and not "
            f"{ANYONE.name} or {NOBODY.name}"
        )


def _client(line: Mapping[str, Any]) -> tuple[str, Client]:
    """Raises ValueError or RequestError."""
    needed = {"name", "sha256"}
    if not needed <= line.keys() <= needed | set(LIMITS):
        raise ValueError(f"each has name and sha256, and may have {' and '.join(LIMITS)}")
    name, mark = line["name"], line["sha256"]
    check_name(str(name))
    if not re.fullmatch("[0-9a-f]{64}", str(mark)):
        raise ValueError(f"{mark!r} is no SHA-256")
    limits: dict[str, int | None] = {limit: line.get(limit) for limit in LIMITS}
    for value in limits.values():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{value!r} must be a whole number from 1")
    return mark, Client(name=name, **limits)


def new_token() -> str:
    return secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """Tokens are long and random, so that a plain hash tells nothing of them."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
