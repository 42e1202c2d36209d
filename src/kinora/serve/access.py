"""Who may come in: clients, known by tokens that only their hashes are kept of."""

import hashlib
import hmac
import ipaddress
import json
import re
import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
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
    """Identifies clients by their tokens, and counts requests."""

    def __init__(
        self, clients: Mapping[str, Client], requests: int, file: Path | None = None
    ) -> None:
        """clients: by the hashes of their tokens.

        requests: of a client in a minute.
        file: of more clients, which is read again whenever it has changed.
        Where there are neither clients nor a file, no token is asked for: what becomes of the file
        later on changes nothing about that.
        """
        self.fixed = clients
        self.requests = requests
        self.file = file
        self.open = not clients and file is None
        self.lock = Lock()
        self.recent: dict[str, deque[float]] = {}
        self.looked = monotonic()
        self.changed = _changed(file)
        self.clients = {**clients, **_read(file)}

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
        limit, now = most or self.requests, monotonic()
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
        """Tokens that were added or taken away hold at once."""
        now = monotonic()
        if self.file is None or now < self.looked + 1:
            return
        self.looked = now
        changed = _changed(self.file)
        if changed != self.changed:
            self.changed = changed
            self.clients = {**self.fixed, **_read(self.file)}

    @staticmethod
    def of(token: str | None, file: Path | None, requests: int) -> "Access":
        """From one token, a file of several, or both; open where there is neither.

        Raises RequestError when the token is too short, or there is no token at all in the file
        and none besides.
        """
        clients: dict[str, Client] = {}
        if token is not None:
            if len(token.strip()) < SHORTEST:
                raise RequestError(
                    f"the token has {len(token.strip())} characters: it must have {SHORTEST} or "
                    "more. `openssl rand -hex 32` makes one"
                )
            clients[hashed(token.strip())] = Client(name="default")
        if file is not None and not clients and not read_clients(file)[0]:
            raise RequestError(
                f"{file}: holds no token ({'; '.join(read_clients(file)[1]) or 'it is empty'}). "
                f"`kinora token NAME >> {file}` adds one"
            )
        return Access(clients, requests, file)


def _changed(file: Path | None) -> tuple[int, ...] | None:
    """What tells one state of a file from another; None where it isn't there."""
    try:
        found = None if file is None else file.stat()
    except OSError:
        return None
    return found and (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _read(file: Path | None) -> dict[str, Client]:
    """Clients of a file, where there is one; what is wrong with it is logged."""
    if file is None:
        return {}
    clients, faults = read_clients(file)
    if faults or not clients:
        log.warning("tokens_not_read", file=file.name, clients=len(clients), reasons=faults[:10])
    return clients


def read_clients(file: Path) -> tuple[dict[str, Client], list[str]]:
    """Clients of a file by the hashes of their tokens, and what is wrong with other lines.

    The file has one JSON object a line: name, sha256 of the token, and what limits it has. A line
    that can't be understood admits nobody, and changes nothing about the others.
    """
    clients: dict[str, Client] = {}
    faults: list[str] = []
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        return {}, [str(error.strerror).lower()]
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                mark, client = _client(dict(json.loads(line)))
                clients[mark] = client
            except (RequestError, ValueError, TypeError, RecursionError) as error:
                faults.append(f"line {number}: {error}")
    return clients, faults


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
        raise ValueError("sha256 must have 64 hexadecimal digits")  # it may be the token itself
    limits: dict[str, int | None] = {limit: line.get(limit) for limit in LIMITS}
    for value in limits.values():
        if value is not None and (type(value) is not int or value < 1):
            raise ValueError(f"{value!r} must be a whole number from 1")
    return str(mark), Client(name=str(name), **limits)


def new_token() -> str:
    return secrets.token_urlsafe(32)


def hashed(token: str) -> str:
    """Tokens are long and random, so that a plain hash tells nothing of them."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
