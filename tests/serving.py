"""A service as it runs: over a real socket, with a worker process beside it."""

import io
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import Image

from kinora.serve.access import Access
from kinora.serve.app import create_app
from kinora.serve.run import configured
from kinora.serve.service import Service
from kinora.serve.settings import Limits, Settings
from tests.waiting import PATIENCE, until


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 32), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert(mode).save(file, kind)
    return file.getvalue()


@contextmanager
def running(
    data: Path,
    *,
    access: Access | None = None,
    limits: Limits | None = None,
    worker: bool = True,
    step_seconds: float = 0.01,
    database: str | None = None,
    storage: str | None = None,
    proxies: Sequence[str] = (),
) -> Generator[httpx.Client]:
    """A client of a service that runs."""
    settings = Settings(
        data=data, model="tiny", limits=limits or Limits(), database=database, storage=storage
    )
    service = Service(settings)
    guard = create_app(service, access or Access({}, 100_000), page=False)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(configured(guard, proxies))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    command = [sys.executable, "-m", "tests.stub_worker", str(data), str(step_seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE) if worker else None
    try:
        base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=base, timeout=PATIENCE) as client:
            yield client
    finally:
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(PATIENCE)
        server.should_exit = True
        thread.join()
        service.close()


def submitted(client: httpx.Client, **fields: object) -> dict[str, Any]:
    """A job of the own door."""
    form = {name: str(value) for name, value in fields.items()}
    answer = client.post("/api/v1/jobs", files={"photo": ("a.png", picture())}, data=form)
    assert answer.status_code == 202, answer.text
    return answer.json()


def ended(client: httpx.Client, id: str) -> Mapping[str, Any]:
    def look() -> dict[str, Any] | None:
        job = client.get(f"/api/v1/jobs/{id}").json()
        return job if job["state"] in ("succeeded", "failed", "cancelled") else None

    return until(look)
