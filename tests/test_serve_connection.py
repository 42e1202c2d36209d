"""Laws of connections: clients that neither send nor take anything are not waited for."""

import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from kinora.serve import connection
from tests.waiting import PATIENCE

PART = bytes(1 << 20)


class Answering:
    """An application that goes on answering as long as somebody takes it, up to 256 MiB."""

    def __init__(self) -> None:
        self.over = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(256):
            await send({"type": "http.response.body", "body": PART, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        self.over.set()


@contextmanager
def connected(app: Answering) -> Generator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http=connection.Hurried, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        with socket.create_connection(listening.getsockname(), timeout=PATIENCE) as client:
            yield client
        server.should_exit = True
        thread.join(PATIENCE)


def received(client: socket.socket, pause: float = 0.0) -> tuple[int, float]:
    """Bytes until the end, and the seconds of all pauses."""
    got = parts = 0
    while part := client.recv(8 << 20):
        got += len(part)
        parts += 1
        time.sleep(pause)
    return got, parts * pause


def test_an_answer_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.5)
    app = Answering()
    with connected(app) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
        assert app.over.wait(PATIENCE)  # its client is gone, whom nothing is sent any more
        assert received(client)[0] < 32 << 20  # what the system held


def test_who_takes_an_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNREAD_SECONDS", 0.5)
    with connected(Answering()) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        got, paused = received(client, pause=0.05)
        assert got > 256 << 20
        assert paused > 1.0


def test_a_request_without_a_head_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.3)
    with connected(Answering()) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")
        assert client.recv(1) == b""
