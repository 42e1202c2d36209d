"""Laws of opening clients' files: one process for each, a fair share for each client."""

import asyncio
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from kinora.serve import inspecting, readers
from kinora.serve.access import Client
from kinora.serve.errors import Busy, Invalid
from kinora.serve.inspecting import Inspector
from kinora.serve.readers import Readers
from kinora.serve.service import Service
from kinora.serve.settings import Settings
from kinora.serve.turns import Turns
from tests.hostile import HEIGHT, WIDTH, short_tiff, slow_jpeg
from tests.serving import picture, running
from tests.waiting import PATIENCE, until

LIMITS = {"seconds": PATIENCE, "processor_seconds": 60}


@pytest.fixture
def inspector() -> Generator[Inspector]:
    inspector = Inspector(64_000_000)
    yield inspector
    inspector.close()


def template(asked: Readers) -> psutil.Process:
    assert asked.process is not None
    return psutil.Process(asked.process.pid)


# Processes.


def test_no_two_files_are_opened_by_one_process(inspector: Inspector) -> None:
    def remembered() -> list[int]:
        return inspector.readers.ask("remember", data=picture(), **LIMITS).done

    alone = [remembered() for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: remembered(), range(8)))
    pids, found, handles = zip(*alone, *together, strict=True)
    assert len(set(pids)) == 11
    assert template(inspector.readers).pid not in pids
    assert set(found) == {0}  # what a reader keeps in memory, the next one does not find
    assert len(set(handles)) == 1  # nor has it the connection of another one


def test_a_short_tiff_after_anothers_photo_is_refused(tmp_path: Path) -> None:
    """GHSA-q45j-58j2-45rg: its missing rows showed what was in the reader's memory."""
    with running(tmp_path, worker=False) as client:
        for photo, status in ((picture(size=(900, 900)), 202), (short_tiff(), 422)):
            answer = client.post("/api/v1/jobs", files={"photo": ("a", photo)})
            assert answer.status_code == status
    message = answer.json()["error"]["message"]
    assert "TIFF" in message
    assert "GHSA-q45j-58j2-45rg" in message
    assert "Convert it to JPEG, PNG or WebP" in message


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF"])
def test_formats_with_known_faults_are_refused_with_the_reason(
    inspector: Inspector, kind: str
) -> None:
    for open_it in (inspector.photo, inspector.pixels):  # as the service, and as a worker
        with pytest.raises(Invalid, match=f"{kind} has a known fault .GHSA-.*Convert it"):
            open_it(picture(kind))
    for formats in ("look", "pixels"):  # where the first check is passed by, the reader refuses
        with pytest.raises(Invalid, match="not a picture that Kinora can read"):
            inspector.readers.ask(formats, data=picture(kind), **LIMITS)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator does it")
def test_what_a_decoder_leaves_out_is_zero(tmp_path: Path) -> None:
    """In a reader's environment, whatever its decoder's faults are."""
    (tmp_path / "short.tiff").write_bytes(short_tiff())
    program = (
        "import sys; from PIL import Image; "
        "used = [bytes([171]) * 60_000 for _ in range(200)]; del used; "
        "sys.stdout.buffer.write(Image.open(sys.argv[1]).tobytes())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "short.tiff")]
    for _ in range(3):
        run = subprocess.run(command, env=os.environ | readers.OWN, capture_output=True, check=True)
        assert not any(run.stdout[8 * WIDTH :])
        assert len(run.stdout) == WIDTH * HEIGHT


def test_nothing_is_left_of_readers(inspector: Inspector) -> None:
    """Neither processes nor open files, however they have ended."""

    def all_ways() -> None:
        inspector.photo(picture())
        for task, limits in (
            ("crash", LIMITS),
            ("waste", LIMITS),
            ("stall", {"seconds": 0.2, "processor_seconds": 60}),
            ("stall", {"seconds": PATIENCE, "processor_seconds": 1}),
        ):
            with pytest.raises(Invalid):
                inspector.readers.ask(task, **limits)

    def open_files() -> tuple[int, int]:
        return psutil.Process().num_fds(), template(inspector.readers).num_fds()

    all_ways()
    until(lambda: not template(inspector.readers).children())
    before = open_files()
    all_ways()
    until(lambda: not template(inspector.readers).children())
    assert open_files() == before


def test_a_template_that_is_gone_comes_back(inspector: Inspector) -> None:
    inspector.photo(picture())
    first = template(inspector.readers)
    first.kill()
    assert inspector.photo(picture()).format == "PNG"
    second = template(inspector.readers)
    assert second.pid != first.pid
    with ThreadPoolExecutor() as pool:  # gone in the midst of a file: that one is opened again
        stalled = pool.submit(inspector.readers.ask, "stall", seconds=PATIENCE, processor_seconds=2)
        until(lambda: bool(second.children()))
        second.kill()
        with pytest.raises(Invalid, match="too long"):
            stalled.result()
    assert inspector.photo(picture()).format == "PNG"


def test_readers_end_with_the_service() -> None:
    program = (
        "import os, signal; from kinora.serve.inspecting import Inspector; "
        "from tests.serving import picture; inspector = Inspector(10**6); "
        "inspector.photo(picture()); print(inspector.readers.process.pid, flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    pid = int(run.stdout)
    until(lambda: not psutil.pid_exists(pid))
    inspector = Inspector(10**6)
    inspector.photo(picture())
    pid = template(inspector.readers).pid
    inspector.close()
    assert not psutil.pid_exists(pid)


NO_FORK = """
import os, runpy
def fork():
    raise OSError(11, "Resource temporarily unavailable")
os.fork = fork
runpy.run_module("kinora.serve.template", run_name="__main__")
"""


@pytest.mark.parametrize(
    "command",
    [
        ("/nowhere/python",),
        (sys.executable, "-c", "raise SystemExit(1)"),
        (sys.executable, "-c", NO_FORK),
    ],
)
def test_a_reader_that_can_not_start_is_not_the_photos_fault(
    monkeypatch: pytest.MonkeyPatch, inspector: Inspector, command: tuple[str, ...]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(readers, "COMMAND", command)
        with pytest.raises(Busy):
            inspector.photo(picture())
    inspector.readers.stop()
    assert inspector.photo(picture()).format == "PNG"


def test_a_reader_that_the_system_ends_is_not_the_photos_fault(inspector: Inspector) -> None:
    inspector.photo(picture())
    with ThreadPoolExecutor() as pool:
        stalled = pool.submit(inspector.readers.ask, "stall", **LIMITS)
        until(lambda: bool(template(inspector.readers).children()))
        template(inspector.readers).children()[0].kill()
        with pytest.raises(Busy, match="memory"):
            stalled.result()


def test_readers_know_no_secrets(monkeypatch: pytest.MonkeyPatch, inspector: Inspector) -> None:
    monkeypatch.setenv("KINORA_TOKEN", "a secret of the service")
    inspector.photo(picture())
    assert "KINORA_TOKEN" not in template(inspector.readers).environ()


def large(mode: str, kind: str) -> bytes:
    return picture(kind, (8000, 8000), mode)


@pytest.mark.parametrize(("mode", "kind"), [("I;16", "PNG"), ("RGBA", "PNG"), ("RGB", "WEBP")])
def test_the_largest_photos_fit_into_a_readers_memory(
    inspector: Inspector, mode: str, kind: str
) -> None:
    seen = inspector.readers.ask("look", data=large(mode, kind), **LIMITS)
    assert seen.done == [8000, 8000, kind]


def test_a_worker_sees_what_the_service_has_seen(inspector: Inspector) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        photo = picture(kind, (90, 60))
        assert inspector.photo(photo) == (90, 60, kind)
        assert inspector.pixels(photo).shape == (60, 90, 3)
    exact = Image.fromarray(inspector.pixels(picture(size=(90, 60))))
    assert exact.tobytes() == Image.linear_gradient("L").resize((90, 60)).convert("RGB").tobytes()


# Turns.


def granted(turns: Turns, *clients: str) -> list[str]:
    """In which order clients get their places, where each lets go of it at once."""
    order: list[str] = []
    with ThreadPoolExecutor(len(clients)) as pool, turns.turn("first"):

        def take(client: str) -> None:
            with turns.turn(client):
                order.append(client)

        for number, client in enumerate(clients):
            pool.submit(take, client)
            until(lambda: sum(map(len, turns.queues.values())) == number + 1)  # noqa: B023
    return order


def test_who_has_one_photo_does_not_wait_for_all_of_somebody_elses() -> None:
    turns = Turns(1, each=1, waiting=10, seconds=PATIENCE)
    assert granted(turns, *"aaaabbc") == [*"abcabaa"]


def test_nobody_takes_all_places() -> None:
    turns = Turns(3, each=2, waiting=10, seconds=0.1)
    with turns.turn("a"), turns.turn("a"):
        with pytest.raises(Busy), turns.turn("a"):
            pytest.fail("a third place")
        with turns.turn("b"):
            pass


def test_who_waits_too_long_or_with_too_many_is_told_and_loses_nobody_a_place() -> None:
    turns = Turns(1, each=1, waiting=1, seconds=0.2)
    with turns.turn("a"), ThreadPoolExecutor() as pool:
        waits = pool.submit(granted, turns, "b")
        until(lambda: "b" in turns.queues or waits.done())
        with pytest.raises(Busy, match="Try again"), turns.turn("c"):
            pytest.fail("there is only one place")
        with pytest.raises(Busy):
            waits.result()
    assert (turns.free, turns.queues, +turns.taken) == (1, {}, {})


def test_turns_are_kept_by_threads_and_event_loops_alike() -> None:
    turns = Turns(3, each=2, waiting=100, seconds=PATIENCE)
    at_once: list[str] = []
    seen: list[tuple[int, int]] = []

    def note(client: str) -> None:
        at_once.append(client)
        seen.append((len(at_once), at_once.count(client)))

    async def on_loop(client: str, seconds: float) -> None:
        async with turns.awaited(client):
            note(client)
            await asyncio.sleep(seconds)
            at_once.remove(client)

    def in_thread(client: str, seconds: float) -> None:
        with turns.turn(client):
            note(client)
            time.sleep(seconds)
            at_once.remove(client)

    chance = random.Random(0)

    async def all_of_them() -> None:
        async def given_up(client: str) -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(on_loop(client, 0.01), chance.uniform(0, 0.05))

        ways = (on_loop, lambda c, s: asyncio.to_thread(in_thread, c, s))
        work = [chance.choice(ways)(chance.choice("abc"), 0.01) for _ in range(60)]
        await asyncio.gather(*work, *(given_up(chance.choice("abc")) for _ in range(20)))

    asyncio.run(all_of_them())
    assert len(seen) >= 60
    assert (turns.free, turns.queues, +turns.taken) == (3, {}, {})


# Clients.


def test_slow_photos_of_one_client_block_nobody_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(inspecting, "SECONDS", 1.0)
    service = Service(Settings(data=tmp_path, model="tiny"))
    photo = slow_jpeg()
    alice, bob = Client(name="alice"), Client(name="bob")

    def ask(client: Client, photo: bytes) -> object:
        return service.submit(client, photo, {}, door="own")

    ask(alice, picture())  # so that the template is there
    with ThreadPoolExecutor(10) as pool:
        slow = [pool.submit(ask, alice, photo) for _ in range(10)]
        until(lambda: len(service.inspector.turns.queues.get("alice", ())) == 8)
        ask(bob, picture())
        assert sum(one.done() for one in slow) < 10
        for one in slow:
            with pytest.raises(Invalid, match="too long"):
                one.result()
    service.close()


def test_forty_photos_at_once_are_all_taken(tmp_path: Path) -> None:
    def post(client: httpx.Client) -> int:
        files = {"photo": ("a.jpg", picture("JPEG"))}
        return client.post("/api/v1/jobs", files=files).status_code

    with running(tmp_path, worker=False) as client, ThreadPoolExecutor(40) as pool:
        assert list(pool.map(post, [client] * 40)) == [202] * 40


def test_who_waits_for_a_photos_turn_takes_no_thread_of_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Service] = []
    monkeypatch.setattr("tests.serving.Service", lambda s: made.append(Service(s)) or made[0])
    limits = httpx.Limits(max_connections=100)
    with (
        running(tmp_path, worker=False) as client,
        httpx.Client(base_url=client.base_url, timeout=PATIENCE, limits=limits) as many,
        ThreadPoolExecutor(60) as pool,
    ):

        def post() -> int:
            return many.post("/api/v1/jobs", files={"photo": ("a", picture())}).status_code

        turns = made[0].inspector.turns = Turns(1, each=1, waiting=60, seconds=PATIENCE)
        with turns.turn("somebody else"):
            sent = [pool.submit(post) for _ in range(50)]
            until(lambda: len(turns.queues.get("local", ())) == 50)
            assert client.get("/api/v1/jobs").status_code == 200
            assert client.get("/readyz").status_code == 200
        assert [one.result() for one in sent] == [202] * 50
