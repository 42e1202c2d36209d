"""A service under load, or one whose processes are killed: is any job lost, or done twice?

    python -m benchmarks.serve_load load --json load.json
    python -m benchmarks.serve_load load --database postgres --workers 2
    python -m benchmarks.serve_load kills --clients 50 --jobs 500

Clients with tokens of their own send a photo now and then and look how their jobs are. The model is
a stub, whose clips have one colour, which tells the seed; all else is real, PostgreSQL too. `kills`
takes away the process that answers requests, or a worker, at random moments; both are started again
at once, as systemd would. The clients run on the same cores, so that latencies have their share.
"""

import argparse
import asyncio
import io
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import psutil
from PIL import Image
from tests.postgres import postgres

from benchmarks.serve_check import check
from benchmarks.serve_clients import Client, Tally
from kinora.serve.access import Access, hashed
from kinora.serve.run import run_service
from kinora.serve.settings import Limits, Settings

SIZE = (320, 192)
"""Of the photo."""
SERVICE = "import sys; from benchmarks.serve_load import serve; serve(*sys.argv[1:])"
"""The process that answers requests."""
START = 60.0
"""Seconds until all must be ready."""
THREADS = 4
"""That a process has at least, once it has started."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("load", "kills"))
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2000, help="of all clients")
    parser.add_argument("--rate", type=float, default=8.0, help="new jobs a second, of all clients")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--step-seconds", type=float, default=0.01)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--gap", type=float, default=4.0, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kinora-load-") as folder, database(options) as url:
        found = asyncio.run(measure(options, Path(folder), url))
    print(json.dumps(found, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(bool(found["faults"]))


@contextmanager
def database(options: argparse.Namespace) -> Generator[list[str]]:
    """URLs of databases besides the service's own: one, or none."""
    if options.database == "sqlite":
        yield []
    else:
        with postgres() as server:
            yield [server.create()]


def settings(folder: Path, url: Sequence[str]) -> Settings:
    limits = Limits(queue=100_000, per_client=100_000)
    return Settings(
        data=folder / "data", model="tiny", database=url[0] if url else None, limits=limits
    )


def serve(port: str, folder: str, step_seconds: str, *url: str) -> None:
    """The service's own process."""
    told = settings(Path(folder), url)
    run_service(
        told,
        Access.of(None, Path(folder) / "tokens", told.limits.requests),
        host="127.0.0.1",
        port=int(port),
        worker=worker(folder, step_seconds, *url),
        page=False,
    )


def worker(folder: str, step_seconds: str, *url: str) -> list[str]:
    data = str(Path(folder) / "data")
    return [sys.executable, "-m", "tests.stub_worker", data, step_seconds, *url]


class Kept:
    """A process that is started again at once whenever it ends."""

    def __init__(self, command: Sequence[str], log: IO[bytes]) -> None:
        self.command = command
        self.log = log
        self.process: asyncio.subprocess.Process | None = None
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, stdin=asyncio.subprocess.PIPE, stdout=self.log, stderr=self.log
            )
            await self.process.wait()

    async def stop(self) -> None:
        self.task.cancel()
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()


async def measure(options: argparse.Namespace, folder: Path, url: list[str]) -> dict[str, Any]:
    tokens = [f"{number:040}" for number in range(options.clients)]
    lines = [{"name": f"client {n}", "sha256": hashed(token)} for n, token in enumerate(tokens)]
    (folder / "tokens").write_text("\n".join(map(json.dumps, lines)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    tally, killed = Tally(), Counter[str]()
    with (folder / "log").open("wb") as log:
        told = (str(folder), str(options.step_seconds), *url)
        service = [sys.executable, "-c", SERVICE, port, *told]
        commands = [service] + [worker(*told)] * (options.workers - 1)
        kept = [Kept(command, log) for command in commands]
        try:
            async with connections(tokens, f"http://127.0.0.1:{port}") as doors:
                await ready(doors[0], options.workers)
                clients = make_clients(options, tally, doors)
                start, used = time.monotonic(), cpu_seconds(kept)
                killing = asyncio.create_task(kill(options, kept, tally, killed))
                await asyncio.gather(*(client.run() for client in clients))
                took, used = time.monotonic() - start, cpu_seconds(kept) - used
                killing.cancel()
        except BaseException:
            print((folder / "log").read_text()[-5000:], file=sys.stderr)
            raise
        finally:
            await asyncio.gather(*(one.stop() for one in kept))
    checked = check(settings(folder, url), tally)
    faults = tally.faults + checked.pop("faults")
    if options.what == "kills" and killed.total() < options.kills:
        faults.append(f"only {killed.total()} kills: more jobs are needed")
    own = time.process_time()
    return {
        "options": {key: value for key, value in vars(options).items() if key != "json"},
        "seconds": round(took, 1),
        "jobs_per_second": round(len(tally.accepted) / took, 2),
        "requests_per_second": round(sum(map(len, tally.seconds.values())) / took, 1),
        "load_average": os.getloadavg(),
        "cpu_seconds": {"clients": round(own, 1), "service_and_workers": round(used, 1)},
        "milliseconds": {kind: spread(each) for kind, each in sorted(tally.seconds.items())},
        "retried": dict(tally.retried),
        "killed": dict(killed),
        **checked,
        "faults": faults[:50],
    }


@asynccontextmanager
async def connections(tokens: Sequence[str], url: str):  # noqa: ANN201 (a list of httpx's clients)
    doors = [
        httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {token}"},
            timeout=60,
            trust_env=False,
            verify=False,
        )
        for token in tokens
    ]
    try:
        yield doors
    finally:
        await asyncio.gather(*(door.aclose() for door in doors))


async def ready(door: httpx.AsyncClient, workers: int) -> None:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            answer = await door.get("/api/v1/models")
            if answer.is_success and answer.json()[0]["workers"] >= workers:
                return
        await asyncio.sleep(0.5)
    raise TimeoutError("the service was not ready in time")


def make_clients(
    options: argparse.Namespace, tally: Tally, doors: Sequence[httpx.AsyncClient]
) -> list[Client]:
    return [
        Client(
            http=door,
            tally=tally,
            random=random.Random(f"{options.seed} {number}"),
            photo=photo(),
            asked={"frames": "2", "steps": str(options.steps)},
            seeds=range(1000 + number, 1000 + options.jobs, options.clients),
            pause=options.clients / options.rate,
        )
        for number, door in enumerate(doors)
    ]


def photo() -> bytes:
    """A small one, as the jobs are: decoding a large one can take longer than all else."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize(SIZE).convert("RGB").save(file, "JPEG")
    return file.getvalue()


async def kill(
    options: argparse.Namespace, kept: Sequence[Kept], tally: Tally, killed: Counter[str]
) -> None:
    """Of the processes, one by one at random moments, while there are jobs in flight."""
    moments = random.Random(options.seed)
    while options.what == "kills" and killed.total() < options.kills:
        await asyncio.sleep(moments.uniform(0.1, 2 * options.gap - 0.1))
        service, workers = processes(kept)
        kind, found = ("service", service) if moments.random() < 0.5 else ("worker", workers)
        victims = [process for process in found if busy(process)]
        if tally.in_flight and victims:
            with suppress(psutil.NoSuchProcess):
                moments.choice(victims).kill()
                killed[kind] += 1


def processes(kept: Sequence[Kept]) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The one that answers requests, and the workers: its own and others."""
    found: list[psutil.Process] = []
    for one in kept:
        if one.process is not None and one.process.returncode is None:
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(one.process.pid))
    service = [process for process in found if process.pid == pid(kept[0])]
    workers = [process for process in found if process.pid != pid(kept[0])]
    for process in service:
        with suppress(psutil.NoSuchProcess):
            workers += [
                child for child in process.children() if "tests.stub_worker" in child.cmdline()
            ]
    return service, workers


def busy(process: psutil.Process) -> bool:
    """Whether it has started: one that is killed before that has nothing to lose."""
    try:
        return process.num_threads() >= THREADS
    except psutil.NoSuchProcess:
        return False


def pid(kept: Kept) -> int:
    return 0 if kept.process is None else kept.process.pid


def cpu_seconds(kept: Sequence[Kept]) -> float:
    used = 0.0
    for process in (process for kind in processes(kept) for process in kind):
        with suppress(psutil.NoSuchProcess):
            used += sum(process.cpu_times()[:2])
    return used


def spread(seconds: Sequence[float]) -> dict[str, float]:
    p50, p90, p99, most = np.quantile(seconds, (0.5, 0.9, 0.99, 1)) * 1000
    values = {"p50": p50, "p90": p90, "p99": p99, "most": most}
    return {"count": len(seconds)} | {name: round(value, 1) for name, value in values.items()}


if __name__ == "__main__":
    main()
