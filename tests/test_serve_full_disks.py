"""Laws of full disks: what can't be written waits or is told as such, and is nobody's fault."""

import errno
import os
import secrets
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from kinora.clip import Clip
from kinora.events import Event
from kinora.request import Request
from kinora.runtime import Journal
from kinora.serve.access import ANYONE
from kinora.serve.errors import Busy
from kinora.serve.files import Files
from kinora.serve.leases import Leases
from kinora.serve.service import Service
from kinora.serve.settings import Settings
from kinora.serve.work import Work
from tests.disks import fill, small_disk
from tests.serving import ended, picture, running, submitted
from tests.stub_worker import Stub
from tests.waiting import until

__all__ = ["small_disk"]


def full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_temporary(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory, of this process and of those that it starts; not `tmp_path`."""
    fill(small_disk / "filling")
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    monkeypatch.setenv("TMPDIR", str(small_disk))
    return small_disk


def test_jobs_go_through_a_full_temporary_directory(full_temporary: Path, tmp_path: Path) -> None:
    """Photos are taken, and seen by workers, without it; yet it is told."""
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    large = Path(Clip(noise[None], 1, {}).save(tmp_path / "frames")) / "frame-0001.png"
    assert large.stat().st_size > 1 << 20  # which forms are not kept in memory by default
    with running(tmp_path / "data") as client:
        files = {"photo": ("a.png", large.read_bytes())}
        answer = client.post("/api/v1/jobs", files=files, data={"steps": "2", "frames": "2"})
        assert answer.status_code == 202, answer.text
        assert ended(client, answer.json()["id"])["state"] == "succeeded"
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert "the temporary directory is full" in ready.text
        (full_temporary / "filling").unlink()
        until_ready(client)


def until_ready(client: httpx.Client) -> None:
    until(lambda: client.get("/readyz").status_code == 200)


@pytest.mark.parametrize("where", ["data folder", "storage"])
def test_a_service_that_can_write_nothing_is_not_ready(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    data = small_disk / "data" if where == "data folder" else tmp_path
    storage = tmp_path / "files" if where == "data folder" else small_disk / "files"
    service = Service(Settings(data=data, model="tiny", storage=str(storage)))
    monkeypatch.setattr("kinora.serve.service.FRESH", -1.0)
    service.check()
    filling = small_disk / "filling"
    fill(filling)
    with pytest.raises(Busy, match=f"the {where} is full"):
        service.check()
    filling.unlink()
    service.check()
    service.close()


@pytest.fixture(params=[Busy("the system is short of memory"), full()])
def trouble(request: pytest.FixtureRequest) -> Exception:
    return request.param


def made_in_spite_of(tmp_path: Path, prepare: Callable[[Work], object]) -> None:
    service = Service(Settings(data=tmp_path, model="tiny"))
    job = service.submit(ANYONE, picture(), {"steps": 2, "frames": 2}, door="own")
    work = Work(Stub(0.0), Leases(service.database, "worker", "tiny", "stub"), service.files)
    prepare(work)
    assert work.once()
    assert service.jobs.get(job.id).state == "succeeded"
    work.close()
    service.close()


def test_a_job_whose_photo_can_not_be_opened_now_waits(tmp_path: Path) -> None:
    calls: list[int] = []

    def prepare(work: Work) -> None:
        pixels = work.inspector.pixels

        def later(data: bytes) -> np.ndarray:
            calls.append(1)
            if len(calls) == 1:
                raise Busy("no process could be started")
            return pixels(data)

        work.inspector.pixels = later  # pyright: ignore[reportAttributeAccessIssue]

    made_in_spite_of(tmp_path, prepare)
    assert len(calls) == 2


def test_a_job_in_whose_midst_a_disk_is_full_goes_on(tmp_path: Path, trouble: Exception) -> None:
    class Troubled(Stub):
        calls = 0

        def stream(self, requests: Request, journal: Journal | None = None) -> Iterator[Event]:
            for event in super().stream(requests, journal):
                self.calls += 1
                if self.calls in (1, 3):
                    raise trouble
                yield event

    def prepare(work: Work) -> None:
        work.maker = Troubled(0.0)

    made_in_spite_of(tmp_path, prepare)


def test_a_cancelled_job_does_not_wait_for_a_full_disk(tmp_path: Path) -> None:
    service = Service(Settings(data=tmp_path, model="tiny"))
    job = service.submit(ANYONE, picture(), {"steps": 2, "frames": 2}, door="own")
    work = Work(Stub(0.0), Leases(service.database, "worker", "tiny", "stub"), service.files)

    def never(data: bytes) -> np.ndarray:
        raise Busy("no process could be started")

    work.inspector.pixels = never  # pyright: ignore[reportAttributeAccessIssue]
    lease = work.take()
    assert lease is not None
    service.cancel(ANYONE, job.id)
    assert list(work.make(lease)) == []
    assert service.jobs.get(job.id).state == "cancelled"
    work.close()
    service.close()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
    return Clip(noise, 4, {}).save(tmp_path / "clip.mp4")


@pytest.mark.parametrize("suffix", [".gif", ".webm"])
def test_a_clip_that_has_no_room_in_another_format_can_be_had_later(
    small_disk: Path, tmp_path: Path, clip: Path, suffix: str
) -> None:
    service = Service(Settings(data=tmp_path / "data", model="tiny"))
    filling = small_disk / "filling"
    fill(filling)
    with pytest.raises(Busy, match="no room"):
        service.inspector.convert(clip, small_disk / f"clip{suffix}")
    filling.unlink()
    service.inspector.convert(clip, small_disk / f"clip{suffix}")
    service.close()


def test_buckets_are_written_and_read_by_the_temporary_directory(full_temporary: Path) -> None:
    files = Files(f"memory://{secrets.token_hex(4)}")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(Busy, match="full"):
            files.write(name, bytes(1 << 16))
    files.system.pipe_file(f"{files.root}/c.mp4", bytes(1 << 16))
    with pytest.raises(Busy, match="the temporary directory is full"), files.local("c.mp4"):
        pytest.fail("there was no room")
    (full_temporary / "filling").unlink()
    files.write("a.mp4", bytes(1 << 16))
    with files.local("a.mp4") as path:
        assert path.stat().st_size == 1 << 16


@pytest.fixture
def open_client(tmp_path: Path) -> Generator[httpx.Client]:
    with running(tmp_path, worker=False) as client:
        yield client


def test_no_request_is_a_fault_of_ours_where_a_disk_is_full(
    open_client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitted(open_client)

    def no_room(self: Files, name: str) -> None:
        raise full()

    monkeypatch.setattr(Files, "delete", no_room)
    monkeypatch.setattr(Files, "new", no_room)
    answer = open_client.post("/api/v1/jobs", files={"photo": ("a.png", picture())})
    assert answer.status_code == 503
    assert "full" in answer.json()["error"]["message"]
    assert open_client.get(job["links"]["self"]).status_code == 200
