"""Who may come in: clients, known by tokens that only their hashes are kept of."""

import hashlib
import hmac
import ipaddress
import json
import secrets
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from kinora.errors import RequestError
from kinora.serve.errors import TooMany, Unknown

__all__ = ["ANYONE", "NOBODY", "Access", "Client", "hashed", "is_loopback", "new_token"]


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
    """Tells clients by their tokens, and counts their requests."""

    def __init__(self, clients: Mapping[str, Client], requests: int) -> None:
        """clients: by the hashes of their tokens; empty where none is asked for.

        requests: of a client in a minute.
        """
        self.clients = clients
        self.requests = requests
        self.lock = Lock()
        self.recent: dict[str, deque[float]] = {}

    @property
    def open(self) -> bool:
        return not self.clients

    def client(self, token: str | None) -> Client:
        """Raises Unknown for a token that is missing or unknown."""
        if self.open:
            return ANYONE
        if token is None:
            raise Unknown("a token is needed: send it as 'Authorization: Bearer TOKEN'")
        mark = hashed(token)
        for known, client in self.clients.items():
            if hmac.compare_digest(known, mark):
                return client
        raise Unknown("the token is unknown. Ask whoever runs this service for one")

    def count(self, client: Client) -> None:
        """Raises TooMany when a client makes more requests than it may."""
        most, now = client.requests or self.requests, time.monotonic()
        with self.lock:
            times = self.recent.setdefault(client.name, deque())
            while times and times[0] < now - 60:
                times.popleft()
            if len(times) >= most:
                raise TooMany(f"more than {most} requests in a minute. Wait a little")
            times.append(now)

    @staticmethod
    def of(token: str | None, file: Path | None, requests: int) -> "Access":
        """From one token, or a file of several; open where there is neither.

        Raises RequestError when the file can't be understood.
        """
        clients = {} if token is None else {hashed(token): Client(name="default")}
        if file is not None:
            clients |= read_clients(file)
        return Access(clients, requests)


def read_clients(file: Path) -> dict[str, Client]:
    """A file with one JSON object a line: name, sha256 of the token, and what limits it has."""
    clients: dict[str, Client] = {}
    try:
        for line in filter(str.strip, file.read_text().splitlines()):
            values: dict[str, Any] = dict(json.loads(line))
            mark = values.pop("sha256")
            clients[mark] = Client(**values)
        if not clients:
            raise ValueError("there is none")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{file}: must have one JSON object a line, such as "
            '{"name": "studio", "sha256": "…", "jobs": 100}, as `kinora token` prints it '
            f"({error})"
        ) from None
    return clients


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
