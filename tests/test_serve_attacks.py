"""Laws that attacks on a service have taught; `benchmarks.serve_attacks` has the attacks."""

import asyncio
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import httpx
import numpy as np
import pytest
from benchmarks.serve_attacks import ATTACKS, Attack, Target, slow_pictures
from structlog.testing import capture_logs

from kinora.clip import Clip
from kinora.errors import CheckpointError
from kinora.serve.access import ANYONE, Access, Client, hashed
from kinora.serve.budget import Budget
from kinora.serve.clock import DAY, HOLD, Clock
from kinora.serve.errors import Busy
from kinora.serve.failures import told
from kinora.serve.service import Service
from kinora.serve.settings import Limits, Settings
from tests.cli import Kinora, kinora
from tests.serving import ended, picture, running, submitted
from tests.waiting import PATIENCE, until

__all__ = ["kinora"]

TOKEN = "alice-has-this-token"


@pytest.fixture(scope="module", params=["open", "tokens"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Target]:
    asked = request.param == "tokens"
    access = Access({hashed(TOKEN): Client(name="alice")} if asked else {}, 100_000)
    folder = tmp_path_factory.mktemp("attacked")
    with running(
        folder, worker=False, access=access, limits=Limits(room_seconds=0.5, stall_seconds=3.0)
    ) as client:
        yield Target(client.base_url, TOKEN if asked else None)


QUICK = [attack for attack in ATTACKS if attack is not slow_pictures]
"""Slow pictures have laws of their own, in test_serve_readers."""


@pytest.mark.parametrize("attack", QUICK, ids=lambda attack: attack.__name__)
def test_an_attack_comes_to_nothing(target: Target, attack: Attack) -> None:
    attack(target)
    with target.client() as client:
        files = {"photo": ("a.png", picture())}
        assert client.post("/api/v1/jobs", files=files).status_code == 202


def test_uploads_share_a_budget_and_one_client_gets_half() -> None:
    async def shared() -> list[bool]:
        budget = Budget(100, 0.05)  # seconds

        async def fits(client: str, size: int) -> bool:
            try:
                await budget.take(client, size)
            except Busy:
                return False
            return True

        found = [await fits("a", 30), await fits("a", 30), await fits("b", 50), await fits("c", 30)]
        budget.give_back("a", 30)
        return [*found, await fits("c", 30), await fits("a", 1000)]

    assert asyncio.run(shared()) == [True, False, True, False, True, False]


LOGGING = """
import os, sys, time
from kinora.serve.logs import flush_logs, start_logs
from kinora.serve.supervisor import Supervisor
import structlog, logging

start_logs()
for number in range(20_000):
    structlog.get_logger().info("event", number=number)
logging.getLogger("library").warning("%d", "no number")
program = "open('starts', 'a').write('x')"
supervisor = Supervisor([sys.executable, "-c", program], {})
supervisor.start()
while not os.path.exists("starts") or os.path.getsize("starts") < 2:
    time.sleep(0.05)
supervisor.stop()
flush_logs()
os._exit(0)
"""


@pytest.mark.parametrize("where", ["full", "closed", "unread"])
def test_a_log_that_can_not_be_written_changes_nothing(tmp_path: Path, where: str) -> None:
    read, write = os.pipe()
    if where == "full":
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full here")
        os.close(write)
        write = os.open("/dev/full", os.O_WRONLY)
    elif where == "closed":
        os.close(read)
    command = [sys.executable, "-c", LOGGING]
    done = subprocess.run(command, cwd=tmp_path, stderr=write, timeout=PATIENCE, check=False)
    assert done.returncode == 0
    os.close(write)


# Files.


def test_a_clip_that_is_gone_is_not_there_and_no_path_is_named(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        job = ended(client, submitted(client, steps=1)["id"])
        for path in tmp_path.glob("files/jobs/*/*/*"):
            path.unlink()
        place = f"/api/v1/jobs/{job['id']}"
        paths = [f"{place}/clip.{suffix}" for suffix in ("mp4", "webm", "gif")]
        paths += [f"{place}/{name}.jpg" for name in ("poster", "spritesheet")]
        for path in [*paths, f"/v1/videos/{job['id']}/content"]:
            answer = client.get(path)
            assert answer.status_code == 404, path
            assert str(tmp_path) not in answer.text


def test_no_failure_names_a_path() -> None:
    error = CheckpointError("/srv/models/svd-xt/unet.safetensors: tensor 'a/b' has values (1/2)")
    assert told(error)["message"] == "unet.safetensors: tensor 'a/b' has values (1/2)"


def test_empty_folders_go(tmp_path: Path) -> None:
    service = Service(Settings(data=tmp_path, model="tiny"))
    job = service.submit(ANYONE, picture(), {}, door="own")
    kept = service.submit(ANYONE, picture(), {}, door="own")
    service.delete(ANYONE, job.id)
    long_ago = time.time() - 10 * DAY
    for path in sorted(service.files.path("jobs").rglob("*"), reverse=True):
        os.utime(path, (long_ago, long_ago))
    service.sweep()
    folders = {path for path in service.files.path("jobs").rglob("*") if path.is_dir()}
    mine = service.files.path(kept.folder)
    assert folders == {mine, mine.parent}
    service.close()


def modes(folder: Path) -> set[str]:
    return {oct(stat.S_IMODE(path.stat().st_mode)) for path in (folder, *folder.rglob("*"))}


def test_what_is_in_the_data_folder_is_nobody_elses(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data) as client:
        ended(client, submitted(client, steps=1)["id"])
        assert modes(data) == {"0o700", "0o600"}
    for path in (data, *data.rglob("*")):  # as an earlier version left it
        path.chmod(0o755 if path.is_dir() else 0o644)
    Service(Settings(data=data, model="tiny")).close()
    assert modes(data) == {"0o700", "0o600"}


def test_a_folder_that_others_use_stays_theirs(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "notes.txt").touch(0o644)
    Service(Settings(data=tmp_path, model="tiny")).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "notes.txt").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "kinora.sqlite").stat().st_mode) == 0o600


def test_a_storage_that_is_shared_keeps_the_modes_of_whoever_runs_it(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        with running(tmp_path / "data", storage=str(tmp_path / "shared")) as client:
            ended(client, submitted(client, steps=1)["id"])
        assert modes(tmp_path / "shared") == {"0o775", "0o664"}
    finally:
        os.umask(before)


def test_a_clip_of_the_command_line_has_the_mode_that_the_user_wants(
    tmp_path: Path, kinora: Kinora
) -> None:
    before = os.umask(0o027)
    try:
        Clip(np.zeros((2, 32, 32, 3), np.uint8), 7, {}).save(tmp_path / "a.mp4")
        assert stat.S_IMODE((tmp_path / "a.mp4").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_parts_are_of_the_file_that_the_client_has(tmp_path: Path) -> None:
    with running(tmp_path) as client:
        job = ended(client, submitted(client, steps=1)["id"])
        link = job["links"]["clip"]
        whole = client.get(link)
        assert whole.headers["cache-control"] == "private, no-cache"
        tag = whole.headers["etag"]
        part = {"range": "bytes=0-9"}
        assert client.get(link, headers={**part, "if-range": tag}).status_code == 206
        for other in ('"another"', "W/" + tag, "Wed, 21 Oct 2015 07:28:00 GMT"):
            answer = client.get(link, headers={**part, "if-range": other})
            assert (answer.status_code, answer.content) == (200, whole.content)
        assert client.get(link, headers={"if-none-match": tag}).status_code == 304
        assert client.get(link, headers={"if-none-match": '"another"'}).status_code == 200


# Clocks.


@pytest.fixture
def jumping(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that the database's clock, and the process's own, are ahead of what they were."""
    ahead = {"clock": 0.0, "process": 0.0}
    now, monotonic = Clock._now, time.monotonic
    monkeypatch.setattr(Clock, "_now", lambda self: now(self) + ahead["clock"])
    monkeypatch.setattr("kinora.serve.clock.monotonic", lambda: monotonic() + ahead["process"])
    return ahead


@pytest.mark.parametrize("days", [40, -40])
@pytest.mark.parametrize("restarted", [False, True])
def test_nothing_expires_for_an_hour_after_the_clock_jumped(
    tmp_path: Path, jumping: dict[str, float], days: int, restarted: bool
) -> None:
    service = Service(Settings(data=tmp_path, model="tiny"))
    assert service.clock.steady()
    jumping["clock"] += days * DAY
    if restarted:
        service.close()
        service = Service(Settings(data=tmp_path, model="tiny"))
    with capture_logs() as lines:
        assert not service.clock.steady()
    assert [line["event"] for line in lines] == ["clock_jumped"]
    for wait, steady in ((HOLD - 60, False), (120, True)):
        jumping["clock"] += wait
        jumping["process"] += wait
        assert service.clock.steady() is steady
    service.close()


def test_a_clock_that_goes_on_expires_what_is_old(
    tmp_path: Path, jumping: dict[str, float]
) -> None:
    service = Service(Settings(data=tmp_path, model="tiny"))
    for _ in range(50):
        assert service.clock.steady()
        jumping["clock"] += 60
        jumping["process"] += 60
    service.close()
    jumping["clock"] += DAY / 2  # while it was not running
    service = Service(Settings(data=tmp_path, model="tiny"))
    assert service.clock.steady()
    service.close()


def test_a_clock_that_jumped_deletes_nothing(tmp_path: Path, jumping: dict[str, float]) -> None:
    service = Service(Settings(data=tmp_path, model="tiny"))
    job = service.cancel(ANYONE, service.submit(ANYONE, picture(), {}, door="own").id)
    service.sweep()
    jumping["clock"] += 40 * DAY
    service.sweep()
    assert service.files.exists(f"{job.folder}/photo")
    service.close()


# Proxies.


@pytest.mark.parametrize(("proxies", "codes"), [((), {401, 429}), (("127.0.0.1",), {401})])
def test_only_named_proxies_say_who_a_client_is(
    tmp_path: Path, proxies: tuple[str, ...], codes: set[int]
) -> None:
    access = Access({hashed(TOKEN): Client(name="alice")}, 3)
    with running(tmp_path, worker=False, access=access, proxies=proxies) as client:
        found = [
            client.get("/api/v1/jobs", headers={"x-forwarded-for": f"10.0.0.{n}"}) for n in range(9)
        ]
    assert {answer.status_code for answer in found} == codes


@pytest.mark.skipif(
    not any(Path(place).exists() for place in ("/usr/sbin/nginx", "/usr/bin/nginx")),
    reason="nginx is not installed (Debian: apt install nginx-light)",
)
def test_the_page_of_a_service_behind_nginx_can_be_used(tmp_path: Path) -> None:
    """With deploy/nginx.conf as it is, but for its names and its TLS."""
    access = Access({hashed(TOKEN): Client(name="alice")}, 1000)
    with (
        running(tmp_path / "data", worker=False, access=access, proxies=["127.0.0.1"]) as client,
        nginx(tmp_path, client.base_url.port or 0) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as outside,
    ):
        headers = {"host": "kinora.example.com", "authorization": f"Bearer {TOKEN}"}
        assert outside.get("/api/v1/jobs", headers=headers).status_code == 200
        cookie = {"host": "kinora.example.com", "cookie": f"kinora_token={TOKEN}"}
        same = {**cookie, "origin": "http://kinora.example.com"}
        large = os.urandom(20 << 20)
        for origin, code in ((same, 422), ({**cookie, "origin": "http://evil.example"}, 403)):
            answer = outside.post("/api/v1/jobs", files={"photo": large}, headers=origin)
            assert answer.status_code == code, answer.text


def nginx(folder: Path, service: int) -> "Nginx":
    return Nginx(folder, service)


class Nginx:
    """nginx with this project's configuration, for as long as it is needed."""

    def __init__(self, folder: Path, service: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        site = (Path(__file__).parents[1] / "deploy/nginx.conf").read_text()
        site = site.replace("listen 443 ssl;", f"listen 127.0.0.1:{self.port};")
        site = "\n".join(part for part in site.splitlines() if "ssl_certificate" not in part)
        assert "127.0.0.1:7860" in site
        site = site.replace("http://127.0.0.1:7860", f"http://127.0.0.1:{service}")
        places = "".join(
            f"{name}_temp_path {folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = "user root;\n" if os.geteuid() == 0 else ""  # whom the folder belongs to
        text += f"pid {folder}/pid; daemon off; error_log stderr; events {{}}"
        text += f"http {{ access_log off; {places} {site} }}"
        self.file = folder / "nginx.conf"
        self.file.write_text(text)

    def __enter__(self) -> int:
        self.process = subprocess.Popen(
            ["nginx", "-c", str(self.file)], env={"PATH": "/usr/sbin:/usr/bin"}
        )
        until(self._answers)
        return self.port

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


# The command line.


def test_a_token_comes_from_a_file_and_on_the_command_line_it_is_warned_of(
    tmp_path: Path, kinora: Kinora
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    rest = ["--host", "no.such.host.invalid", "--data", str(tmp_path / "data")]
    outcome = kinora("serve", "--token", TOKEN, *rest)
    assert "--token-file" in outcome.err
    outcome = kinora("serve", "--token-file", str(file), *rest)
    assert "list of processes" not in outcome.err
    assert "can't be listened on" in outcome.err
    (tmp_path / "empty").touch()
    for words, said in (
        (["--token", ""], "0 characters"),
        (["--token-file", str(tmp_path / "empty")], "0 characters"),
        (["--token-file", str(tmp_path / "none")], "none: can't be read"),
        (["--token-file", str(file), "--token", TOKEN], "name one of them"),
        (["--proxies", "proxy.example"], "must be an address such as"),
        (["--tokens", os.devnull], "holds no token"),
    ):
        outcome = kinora("serve", *words, *rest)
        assert outcome.code == 2
        assert said in outcome.err
