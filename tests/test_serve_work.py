"""Laws of a worker's work with a real pipeline, of where files lie, and of what is let go of."""

import asyncio
import errno
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import Response

from kinora.clip import Clip
from kinora.config import TINY
from kinora.errors import RequestError
from kinora.events import Event, Sampled
from kinora.pipeline import Pipeline
from kinora.serve.access import ANYONE
from kinora.serve.database import jobs as table
from kinora.serve.delivery import deliver
from kinora.serve.errors import Busy, Missing, OutOfRange
from kinora.serve.failures import told
from kinora.serve.files import Files
from kinora.serve.job import Job
from kinora.serve.leases import Leases, requeue
from kinora.serve.service import Service
from kinora.serve.settings import Limits, Settings
from kinora.serve.supervisor import Supervisor
from kinora.serve.watch import Watch
from kinora.serve.work import Work
from tests.cli import Kinora, kinora
from tests.serving import picture
from tests.tiny import tiny_pipeline

__all__ = ["kinora"]

Ask = Callable[..., Job]


@pytest.fixture
def service(tmp_path: Path) -> Generator[Service]:
    service = Service(Settings(data=tmp_path, model="tiny", limits=Limits(keep_bytes=10**6)))
    yield service
    service.close()


@pytest.fixture
def ask(service: Service) -> Ask:
    def submit(**asked: object) -> Job:
        return service.submit(ANYONE, picture(size=(90, 60)), asked, door="own")

    return submit


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture
def worker(service: Service, pipe: Pipeline) -> Generator[Callable[[], Work]]:
    """A new worker, each time."""
    made: list[Work] = []

    def another() -> Work:
        leases = Leases(service.database, secrets.token_hex(4), "tiny", pipe.binding)
        made.append(Work(pipe, leases, service.files))
        return made[-1]

    yield another
    for work in made:
        work.close()


def begun(work: Work) -> Generator[Event]:
    """The making of the next job."""
    lease = work.take()
    assert lease is not None
    return work.make(lease)


def reach(events: Generator[Event], step: int) -> None:
    assert any(isinstance(event, Sampled) and event.step == step for event in events)


# What a worker does.


def test_a_job_that_changes_hands_comes_to_the_same_clip(
    worker: Callable[[], Work], service: Service, ask: Ask, pipe: Pipeline
) -> None:
    whole, broken = ask(seed=3, steps=6), ask(seed=3, steps=6)
    assert worker().once()
    first = worker()
    late = begun(first)
    reach(late, 4)
    with service.database.begin() as c:  # it is taken for dead
        requeue(c, [first.leases.executor], deaths=1)
    second, calls = worker(), list[int]()
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    assert second.once()
    handle.remove()
    assert len(calls) == 2
    clips = [service.files.read(service.clip(service.jobs.get(j.id))) for j in (whole, broken)]
    assert clips[0] == clips[1]
    assert list(late) == []


def test_nothing_but_results_is_kept(
    worker: Callable[[], Work], service: Service, ask: Ask, pipe: Pipeline
) -> None:
    job = ask(seed=3)
    assert worker().once()
    names = {path.name for path in service.files.path(job.folder).rglob("*")}
    assert {name for name in names if not name.startswith("preview")} == {
        "photo",
        "clip.mp4",
        "poster.jpg",
        "spritesheet.jpg",
    }
    assert service.jobs.get(job.id).bytes == service.files.bytes_of(job.folder) > 0


def test_a_recipe_repeats_the_clip(
    worker: Callable[[], Work], service: Service, ask: Ask, pipe: Pipeline
) -> None:
    job = ask(motion=40, guidance=[1.0, 2.0])
    assert worker().once()
    result = service.jobs.get(job.id).result
    assert result is not None
    with service.files.local(f"{job.folder}/clip.mp4") as path:
        assert Clip.open(path).recipe == result["recipe"]
    asked = result["recipe"]["request"]
    assert (asked["motion"], asked["guidance"]) == (40, [1.0, 2.0])
    assert asked["seed"] == job.asked["seed"]


def test_a_cancelled_job_stops_within_a_step(
    worker: Callable[[], Work], service: Service, ask: Ask, pipe: Pipeline
) -> None:
    job, events = ask(steps=50), begun(worker())
    reach(events, 1)
    service.cancel(ANYONE, job.id)
    time.sleep(0.1)  # a worker looks ten times a second at most
    calls = list[int]()
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    assert len(list(events)) <= 1
    handle.remove()
    assert len(calls) <= 1
    assert service.jobs.get(job.id).state == "cancelled"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("size"), "invalid"),
        (MemoryError(), "out_of_memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "out_of_memory"),
        (Missing("photo"), "photo_lost"),
        (Busy("disk"), "unavailable"),
        (KeyError("x"), "internal"),
    ],
)
def test_failures_are_told_without_what_is_inside(error: Exception, code: str) -> None:
    reason = told(error)
    assert reason["code"] == code
    assert "KeyError" not in reason["message"]


def test_a_full_disk_is_waited_for(
    worker: Callable[[], Work],
    service: Service,
    ask: Ask,
    pipe: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, work = ask(), worker()
    store, fulls = service.files.new, [0]

    def full(name: str) -> AbstractContextManager[Path]:
        if name.endswith("clip.mp4") and fulls[0] < 2:
            fulls[0] += 1
            raise Busy("the storage is full")
        return store(name)

    monkeypatch.setattr(service.files, "new", full)
    assert work.once()
    assert fulls[0] == 2
    assert service.jobs.get(job.id).state == "succeeded"


def test_a_job_that_the_model_can_not_make_fails(
    worker: Callable[[], Work], service: Service, ask: Ask, pipe: Pipeline
) -> None:
    job = ask(size=(100, 100))
    assert worker().once()
    ended = service.jobs.get(job.id)
    assert ended.state == "failed"
    assert ended.error is not None
    assert "multiples" in ended.error["message"]


# Where files lie.


@pytest.fixture(params=["folder", "bucket"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    here = request.param == "folder"
    return Files(str(tmp_path) if here else f"memory://{secrets.token_hex(4)}")


def test_files_are_whole_or_not_there(files: Files) -> None:
    def interrupted() -> None:
        with files.new("a/b/c.txt") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert not files.exists("a/b/c.txt")
    with pytest.raises(Missing):
        files.read("a/b/c.txt")
    files.write("a/b/c.txt", b"whole")
    files.write("a/b/c.txt", b"other")
    assert files.read("a/b/c.txt") == b"other"
    assert files.about("a/b/c.txt")[0] == files.bytes_of("a") == 5
    with files.local("a/b/c.txt") as path:
        assert path.read_bytes() == b"other"
    assert files.folders("a") == ["a/b"]
    assert files.age("a") < 60
    files.delete("a")
    files.delete("a")
    assert not files.exists("a/b/c.txt")
    assert files.bytes_of("a") == 0


def test_a_full_disk_is_told(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(Busy, match="full"):
            files.write("a.mp4", b"x")
    assert not files.exists("a.mp4")
    files.write("a.mp4", b"x")


def test_a_storage_that_is_none_is_told() -> None:
    with pytest.raises(RequestError, match="storage nowhere://x"):
        Files("nowhere://x")


@pytest.mark.parametrize(
    ("asked", "status", "slice_"),
    [
        (None, 200, slice(None)),
        ("bytes=0-9", 206, slice(0, 10)),
        ("bytes=90-", 206, slice(90, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=40-4000", 206, slice(40, None)),
        ("bytes=abc", 200, slice(None)),
        ("bytes=9-3", 200, slice(None)),
        ("bytes=0-1,5-6", 200, slice(None)),
    ],
)
def test_parts_are_the_same_from_anywhere(
    files: Files, asked: str | None, status: int, slice_: slice
) -> None:
    data = bytes(range(100))
    files.write("clip.mp4", data)
    headers = [] if asked is None else [(b"range", asked.encode())]
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    answer = deliver(files, "clip.mp4", Request(scope))
    told, body = asyncio.run(gathered(answer, scope))
    assert told == status
    assert body == data[slice_]


@pytest.mark.parametrize("asked", ["bytes=100-", "bytes=-0", "bytes=4000-5000"])
def test_a_part_beyond_the_end_is_refused(files: Files, asked: str) -> None:
    files.write("clip.mp4", bytes(100))
    headers = [(b"range", asked.encode())]
    with pytest.raises(OutOfRange) as refused:
        deliver(files, "clip.mp4", Request({"type": "http", "headers": headers}))
    assert refused.value.headers == {"content-range": "bytes */100"}


async def gathered(answer: Response, scope: dict[str, Any]) -> tuple[int, bytes]:
    status, body = 0, b""

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:  # noqa: ANN401
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    await answer(scope, receive, send)
    return status, body


# What is let go of.


def age(service: Service, id: str, **values: object) -> None:
    with service.database.engine.begin() as c:
        c.execute(sa.update(table).where(table.c.id == id).values(**values))


def ended(service: Service, ask: Ask) -> Job:
    return service.cancel(ANYONE, ask().id)


def there(service: Service, job: Job) -> bool:
    return service.files.exists(f"{job.folder}/photo")


def test_what_was_kept_long_enough_goes(service: Service, ask: Ask) -> None:
    old, young, waiting = ended(service, ask), ended(service, ask), ask()
    age(service, old.id, finished=time.time() - old.keep - 1)
    service.sweep()
    assert [there(service, job) for job in (old, young, waiting)] == [False, True, True]
    assert {job.id for job in service.jobs.find("local").jobs} == {young.id, waiting.id}


def test_the_oldest_go_where_room_is_short(service: Service, ask: Ask) -> None:
    made = [ended(service, ask) for _ in range(3)]
    for index, job in enumerate(made):
        age(service, job.id, bytes=400_000, finished=1000.0 + index + time.time())
    service.sweep()
    assert [there(service, job) for job in made] == [False, True, True]


def test_where_ages_are_not_told_nothing_counts_as_nobodys(tmp_path: Path) -> None:
    service = Service(Settings(data=tmp_path, storage=f"memory://{secrets.token_hex(4)}"))
    service.files.write("jobs/ab/abc/photo", b"of a job that is just being asked for")
    service.sweep()
    assert service.files.exists("jobs/ab/abc/photo")
    service.close()


def test_a_job_whose_commit_was_not_acknowledged_keeps_its_photo(
    service: Service, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = service.jobs.submit

    def unacknowledged(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        submit(*args, **kwargs)
        raise Busy("the database was started anew")

    monkeypatch.setattr(service.jobs, "submit", unacknowledged)
    with pytest.raises(Busy):
        ask()
    (job,) = service.jobs.find("local").jobs
    assert there(service, job)


def test_what_can_not_be_deleted_keeps_nothing_else(
    service: Service, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [ended(service, ask) for _ in range(2)]
    for job in jobs:
        age(service, job.id, finished=time.time() - job.keep - 1)
    delete = service.files.delete

    def stubborn(folder: str) -> None:
        if folder == jobs[0].folder:
            raise PermissionError(folder)
        delete(folder)

    monkeypatch.setattr(service.files, "delete", stubborn)
    service.sweep()
    assert [there(service, job) for job in jobs] == [True, False]


def test_followers_of_what_is_there_are_told(service: Service, ask: Ask) -> None:
    """Also those who come while the database is being asked about others."""

    def slowly(ids: Any) -> dict[str, Job]:  # noqa: ANN401
        time.sleep(0.05)
        return service.jobs.several(ids)

    async def followed() -> list[bool]:
        watch = Watch(slowly)
        jobs = [ended(service, ask) for _ in range(6)]

        async def follow(job: Job, wait: float) -> bool:
            await asyncio.sleep(wait)
            return [seen.state async for seen in watch.follow(job.id)] == ["cancelled"]

        return await asyncio.gather(*(follow(j, 0.04 * n) for n, j in enumerate(jobs)))

    assert all(asyncio.run(followed()))


def test_a_supervisor_outlives_a_process_that_can_not_start() -> None:
    supervisor = Supervisor(["/nowhere/kinora"], {})
    supervisor.start()
    time.sleep(0.3)
    assert supervisor.thread.is_alive()
    supervisor.stop()


def test_what_is_nobodys_goes_after_a_while(
    service: Service, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ask()
    service.files.write("jobs/ab/abc/photo", b"left behind by a service that was killed")
    service.sweep()
    assert service.files.exists("jobs/ab/abc/photo")
    monkeypatch.setattr("kinora.serve.service.ORPHAN", -60.0)
    service.sweep()
    assert not service.files.exists("jobs/ab/abc/photo")
    assert there(service, job)


def test_a_job_that_is_refused_leaves_nothing(service: Service, ask: Ask) -> None:
    service.limits = replace(service.limits, queue=1)
    ask()

    def kept() -> list[Path]:
        return [path for path in service.files.path("jobs").rglob("*") if path.is_file()]

    before = kept()
    with pytest.raises(Exception, match="wait already"):
        ask()
    assert len(before) == 1
    assert kept() == before


def test_what_the_model_can_not_make_is_refused_where_it_is_known(tmp_path: Path) -> None:
    service = Service(Settings(data=tmp_path, model="nano"))
    with pytest.raises(Exception, match="multiples of 16"):
        service.submit(ANYONE, picture(), {"size": (100, 100)}, door="own")
    service.close()


# The command line.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "--port", "x"], "port 'x': must be a whole number"),
        (["serve", "--port", "70000"], "from 1 to 65535"),
        (["serve", "--host", "0.0.0.0"], "--token"),
        (["serve", "--keep-days", "0"], "keep_days 0"),
        (["serve", "--database", "mysql://me:secret@host/x"], "must be PostgreSQL"),
        (["serve", "--database", "what?secret"], "must be a URL such as"),
        (["serve", "--database", "postgresql://me:secret@127.0.0.1:1/x"], "can't be used"),
        (["serve", "--storage", "nowhere://x"], "storage nowhere://x"),
        (["serve", "--tokens", "nofile"], "nofile"),
        (["worker", "--device", "tpu"], "device 'tpu'"),
        (["token", "a", "--jobs", "many"], "jobs 'many'"),
    ],
)
def test_wrong_usage_is_told_at_once(
    kinora: Kinora, tmp_path: Path, words: list[str], said: str
) -> None:
    data = [] if words[0] == "token" else ["--data", str(tmp_path / "data")]
    port = ["--port", "0"] if words[0] == "serve" and "--port" not in words else []
    outcome = kinora(*words, *data, *port)
    assert outcome.code == 2
    assert said in outcome.err
    assert "secret" not in outcome.err


def test_the_service_knows_models_by_no_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.touch()
    for model, name in ((str(file), "mine"), ("SVD_XT", "svd-xt"), ("me/model", "me/model")):
        assert Settings(data=tmp_path, model=model).model_name == name
    assert TINY.name == "tiny"


def test_the_process_that_answers_imports_no_torch() -> None:
    program = (
        "import sys, kinora.serve.run, kinora.serve.page.mount; "
        "sys.exit('torch' in sys.modules or 'kinora.pipeline' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
