"""The process that answers requests, with a worker beside it."""

import errno
import resource
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from kinora.errors import RequestError
from kinora.serve.access import Access, is_loopback
from kinora.serve.app import create_app
from kinora.serve.connection import Hurried
from kinora.serve.logs import start_logs
from kinora.serve.service import Service
from kinora.serve.settings import Settings
from kinora.serve.supervisor import Supervisor

__all__ = ["configured", "run_service"]

MOST_FILES: Final = 65_536
OWN_FILES: Final = 200
"""For the database, the storage and the readers."""

log = structlog.get_logger()


def run_service(
    settings: Settings,
    access: Access,
    *,
    host: str,
    port: int,
    worker: Sequence[str] | None,
    environment: Mapping[str, str] | None = None,
    page: bool = True,
    proxies: Sequence[str] = (),
) -> None:
    """Answer requests until told to stop.

    worker: the command of a worker to keep running beside; none where others do the work.
    environment: variables that the worker is given besides this process's own.
    proxies: addresses or networks of proxies whose X-Forwarded-For and -Proto are believed.
    Raises RequestError when the address can't be had, or is open to others without a token, or
    when the worker says that it can't work.
    """
    if access.open and not is_loopback(host):
        raise RequestError(
            f"host {host}: others could come in. Name a --token (or a --tokens file), "
            "or keep to 127.0.0.1"
        )
    start_logs()
    try:
        listening = socket.create_server((host, port), reuse_port=False, family=_family(host))
    except OSError as error:
        taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
        reason = str(error.strerror).partition(" (while")[0]
        raise RequestError(
            f"{host}:{port}: can't be listened on ({reason}). "
            f"Choose {'another --port' if taken else 'an address of this machine as --host'}"
        ) from error
    # Connections have it from here: asyncio sees to it for sockets that it makes itself only, and
    # an answer in two parts would wait 40 ms for the client to acknowledge the first one.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listening:
        service = Service(settings)
        server = uvicorn.Server(configured(create_app(service, access, page=page), proxies))

        def stop() -> None:
            server.should_exit = True

        supervisor = None if worker is None else Supervisor(worker, environment or {}, stop)
        if supervisor is not None:
            supervisor.start()
        name = f"[{host}]" if ":" in host else host
        log.info("serving", url=f"http://{name}:{listening.getsockname()[1]}")
        try:
            with suppress(KeyboardInterrupt):  # which is how one stops a service
                server.run(sockets=[listening])
        finally:
            if supervisor is not None:
                supervisor.stop()
            service.close()
        if supervisor is not None and supervisor.gave_up:
            raise RequestError("no worker can be started: why, it has said above")


def configured(app: ASGIApp, proxies: Sequence[str] = ()) -> uvicorn.Config:
    """How the application is served.

    proxies: addresses or networks of proxies whose X-Forwarded-For and -Proto are believed.
    """
    return uvicorn.Config(
        app,
        http=Hurried,
        ws="none",  # nothing here uses WebSockets
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_graceful_shutdown=3,
        limit_concurrency=_connections(),
    )


def _connections() -> int:
    """How many may be open: some fewer than there may be files, which each of them is one of."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, MOST_FILES) if hard != resource.RLIM_INFINITY else MOST_FILES
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(16, max(soft, most) - OWN_FILES)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
