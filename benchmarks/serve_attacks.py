"""What must not harm a service that runs: requests made to block it, fill it or make it talk.

python -m benchmarks.serve_attacks http://127.0.0.1:7860 [--token TOKEN] [--pid PID]

Prints a line per attack: what came of it, and the longest that another client's request took
meanwhile. Leaves jobs behind: point it at a service of your own that has nothing else to do.
Without a token the service must ask for none.
"""

import argparse
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import httpx
import psutil
from PIL import Image
from tests.hostile import short_tiff, slow_jpeg

__all__ = ["ATTACKS", "Attack", "Fault", "Target", "slow_pictures"]

BOUNDARY: Final = b"--x\r\ncontent-disposition: form-data; name="
MIB: Final = 1 << 20
PATIENCE: Final = 120.0
"""Seconds after which a connection that is still open is a fault."""


class Fault(Exception):
    """The service did what it should not."""


@dataclass(frozen=True)
class Target:
    """A service, and a token for it where it asks for one."""

    url: httpx.URL
    token: str | None = None

    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers(), timeout=PATIENCE)

    @contextmanager
    def connected(self, head: str, *, token: bool = True) -> Generator[socket.socket]:
        """A connection on which the head of a request was sent."""
        lines = [head, f"host: localhost:{self.url.port}"]
        if token:
            lines += [f"{name}: {value}" for name, value in self.headers().items()]
        address = (self.url.host, self.url.port or 80)
        with socket.create_connection(address, timeout=PATIENCE) as s:
            s.sendall("\r\n".join([*lines, "", ""]).encode())
            yield s


def photo() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 32)).save(file, "PNG")
    return file.getvalue()


def expect(answer: httpx.Response, *codes: int) -> None:
    if answer.status_code not in codes:
        raise Fault(f"{answer.request.url.path}: {answer.status_code} {answer.text[:200]}")


def codecs_that_take_long(target: Target) -> None:
    """Forms in a codec whose time grows with the square of the length, and in ones that fail."""
    form = "multipart/form-data; boundary=x; charset="
    body = BOUNDARY + b'"token"\r\n\r\n' + b"a-" * 1500 + b"\r\n--x--\r\n"
    with target.client() as client:
        for charset in ("punycode", "undefined", "utf-7", "idna", "raw_unicode_escape", '"utf-16"'):
            for path in ("/login", "/api/v1/jobs", "/v1/videos", "/v2beta/image-to-video"):
                headers = {"content-type": form + charset}
                expect(client.post(path, content=body, headers=headers), 415)


def cookies_of_backslashes(target: Target) -> None:
    """A header that Python's own parser takes seconds for."""
    cookie = 'kinora_token="' + "\\" * 15_000
    with httpx.Client(base_url=target.url, timeout=PATIENCE) as client:
        for _ in range(5):
            answer = client.get("/api/v1/jobs", headers={"cookie": cookie})
            expect(answer, 200 if target.token is None else 401)


def tiny_chunks(target: Target) -> None:
    """Bodies in chunks of one byte, on four connections, with a token and without."""
    chunks = b"1\r\na\r\n" * 40_000

    def flood(token: bool) -> None:
        head = "POST /api/v1/jobs HTTP/1.1\r\ntransfer-encoding: chunked\r\n"
        head += "content-type: multipart/form-data; boundary=x"
        with target.connected(head, token=token) as s, suppress(OSError):
            for _ in range(20):
                s.sendall(chunks)
            while s.recv(65536):
                pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(flood, (True, False, True, False)))


def bodies_that_nobody_reads(target: Target) -> None:
    """Bytes that trickle in after the response was sent."""
    paths = ("/healthz", "/api/v1/jobs/none/cancel", "/nowhere", "/v1/videos/none")

    def drip(path: str) -> None:
        with target.connected(f"POST {path} HTTP/1.1\r\ncontent-length: 1000000") as s:
            end = time.monotonic() + PATIENCE
            with suppress(OSError):
                while time.monotonic() < end:
                    s.sendall(b"a")
                    time.sleep(0.5)
                raise Fault(f"{path}: still open after {PATIENCE:g} s")

    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(drip, paths))


def bodies_without_a_token(target: Target) -> None:
    """Nothing of a large body is waited for where nobody has shown a token."""
    if target.token is None:
        return
    head = "POST /api/v1/jobs HTTP/1.1\r\ncontent-length: 33000000"
    with target.connected(head, token=False) as s:
        if b" 401 " not in s.recv(1000):
            raise Fault("the body was waited for")
    with httpx.Client(base_url=target.url, timeout=PATIENCE) as client:
        answer = client.post("/login", data={"token": "a" * 10_000})
        expect(answer, 413)


def forty_large_uploads(target: Target) -> None:
    """Each stops before its last byte; all the same, others get through or hear to come again."""
    size = 30 * MIB
    head = f"POST /api/v1/jobs HTTP/1.1\r\ncontent-length: {size}\r\n"
    head += "content-type: multipart/form-data; boundary=x"

    def upload(number: int) -> bytes:
        with target.connected(head) as s, suppress(OSError):
            s.sendall(BOUNDARY + b'"photo"; filename="a"\r\n\r\n')
            for _ in range(size // MIB - 1):
                s.sendall(bytes(MIB))
            return s.recv(1000)
        return b""

    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(upload, range(40)))
    refused = [answer for answer in answers if answer and b" 503 " in answer]
    if not refused:
        raise Fault("all were received at once")


def long_texts(target: Target) -> None:
    """Texts that would be stored with each job, and listed again and again."""
    long = "a" * 500_000
    with target.client() as client:
        files = {"photo": photo()}
        for field in ("size", "quality", "guidance", "model", "sampler"):
            expect(client.post("/api/v1/jobs", files=files, data={field: long}), 422)
        files = {"input_reference": photo()}
        for field in ("prompt", "model", "size"):
            answer = client.post("/v1/videos", files=files, data={field: long})
            expect(answer, 422)
            if len(answer.content) > 5000:
                raise Fault(f"{field}: quoted at a length of {len(answer.content)}")
        body = json.dumps({"prompt": long * 10})
        headers = {"content-type": "application/json"}
        expect(client.post("/v1/videos", content=body, headers=headers), 422)
        listed = client.get("/api/v1/jobs?limit=200")
        expect(listed, 200)
        if len(listed.content) > 2 * MIB:
            raise Fault(f"a page of jobs has {len(listed.content)} bytes")


def bodies_where_none_belong(target: Target) -> None:
    """A body with a request that reads none."""
    with target.client() as client:
        for path in ("/healthz", "/api/v1/jobs", "/api/v1/models"):
            expect(client.request("GET", path, content=bytes(MIB)), 400)


def names_that_are_none(target: Target) -> None:
    """Ids, verbs and paths of elsewhere: not there, and no word about where things lie."""
    paths = (
        "/v1/videos/none/content",
        "/v1/videos/none/extend",
        "/v1/videos/none/a/b",
        "/api/v1/jobs/..%2f..%2fetc%2fpasswd/clip.mp4",
        "/api/v1/jobs/%00/poster.jpg",
        "/v2beta/image-to-video/result/none",
        "/gradio_api/file=/etc/passwd",
        "/file=/etc/passwd",
    )
    with target.client() as client:
        for path in paths:
            answer = client.get(path)
            expect(answer, 404)
            if "/home" in answer.text or "/etc/" in answer.text.replace(path, ""):
                raise Fault(f"{path}: {answer.text[:200]}")


def pictures_of_other_formats(target: Target) -> None:
    """A TIFF whose decoder shows what was in memory, and others with known faults."""
    files = [short_tiff(), short_tiff("group4")]
    for kind in ("BMP", "GIF", "TIFF"):
        file = io.BytesIO()
        Image.linear_gradient("L").save(file, kind)
        files.append(file.getvalue())
    with target.client() as client:
        for data in files:
            expect(client.post("/api/v1/jobs", files={"photo": data}), 422)


def slow_pictures(target: Target) -> None:
    """JPEGs that take their decoder very long: they are taken or end, and others go on."""
    slow = slow_jpeg(scans=12_000)

    def submit(_: int) -> None:
        with target.client() as client:
            expect(client.post("/api/v1/jobs", files={"photo": slow}), 202, 422, 503)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(submit, range(10)))
    with target.client() as client:
        expect(client.post("/api/v1/jobs", files={"photo": photo()}), 202)


def pages_of_other_sites(target: Target) -> None:
    """What a page somewhere would have a browser send."""
    headers = [{"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}]
    if target.token is None:
        headers.append({"host": "evil.example"})
    with httpx.Client(base_url=target.url, timeout=PATIENCE) as client:
        for header in headers:
            answer = client.post("/api/v1/jobs", files={"photo": photo()}, headers=header)
            expect(answer, 403)


Attack = Callable[[Target], None]
ATTACKS: Final[tuple[Attack, ...]] = (
    codecs_that_take_long,
    cookies_of_backslashes,
    tiny_chunks,
    bodies_that_nobody_reads,
    bodies_without_a_token,
    forty_large_uploads,
    long_texts,
    bodies_where_none_belong,
    names_that_are_none,
    pictures_of_other_formats,
    slow_pictures,
    pages_of_other_sites,
)


class Bystander:
    """Another client, who looks whether the service answers."""

    def __init__(self, url: httpx.URL) -> None:
        self.worst = 0.0
        self.over = threading.Event()
        self.client = httpx.Client(base_url=url, timeout=PATIENCE)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while not self.over.wait(0.05):
            begun = time.monotonic()
            expect(self.client.get("/healthz"), 200)
            self.worst = max(self.worst, time.monotonic() - begun)

    def stop(self) -> float:
        """Seconds that the slowest response took."""
        self.over.set()
        self.thread.join()
        self.client.close()
        return self.worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", type=httpx.URL)
    parser.add_argument("--token", help="of a client, where the service asks for one")
    parser.add_argument("--pid", type=int, help="of the service, to see its memory")
    given = parser.parse_args()
    target, faults = Target(given.url, given.token), 0
    process = None if given.pid is None else psutil.Process(given.pid)
    print(f"{'attack':28} {'outcome':8} {'slowest /healthz':>16}  memory after")
    for attack in ATTACKS:
        bystander, outcome = Bystander(target.url), "held"
        try:
            attack(target)
        except Fault as fault:
            outcome, faults = f"FAULT: {fault}", faults + 1
        worst = bystander.stop()
        memory = "" if process is None else f"{process.memory_info().rss // MIB} MiB"
        print(f"{attack.__name__:28} {outcome:8} {1000 * worst:13.0f} ms  {memory}")
    return min(faults, 1)


if __name__ == "__main__":
    raise SystemExit(main())
