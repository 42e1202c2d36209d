"""What holds of jobs whatever dies, is locked, full or away: on SQLite and on PostgreSQL."""

import multiprocessing
import os
import secrets
import signal
import sqlite3
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
import sqlalchemy as sa

from kinora.clip import Clip
from kinora.events import Event, Sampled
from kinora.serve.database import SILENCE, is_away, jobs, workers
from kinora.serve.errors import Busy, Full
from kinora.serve.heartbeat import count_workers
from kinora.serve.job import Job, Order, folder_of
from kinora.serve.leases import Leases, requeue
from kinora.serve.service import PATIENCE as LOCK_SECONDS
from kinora.serve.service import Service
from kinora.serve.settings import Settings
from kinora.serve.work import Work
from kinora.serve.worker import VANISHED
from tests import stub_worker
from tests.disks import fill, small_disk
from tests.postgres import Postgres, installed, postgres
from tests.serving import picture
from tests.waiting import PATIENCE, until

__all__ = ["small_disk"]

PHOTO = picture()
T = TypeVar("T")
forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(["tests.stub_worker", "kinora.serve.worker"])


class Worker(NamedTuple):
    """A worker process, and the other end of its standard input."""

    process: multiprocessing.process.BaseProcess
    stdin: Connection

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join(PATIENCE)
        self.stdin.close()


class House:
    """A service without its doors, and workers in processes of their own."""

    def __init__(self, folder: Path, database: str | None, log: Path) -> None:
        self.settings = Settings(data=folder, model="tiny", database=database)
        self.service = Service(self.settings)
        self.engine = self.service.database.engine
        self.jobs = self.service.jobs
        self.files = self.service.files
        self.log = log
        self.workers: list[Worker] = []

    def worker(
        self, step_seconds: float = 0.01, *, count: int = 1, binding: str = "stub float32"
    ) -> Worker:
        """The last of so many that are started, all of which are ready."""
        before = self.executors()
        rest = [str(step_seconds), self.settings.database or "", binding]
        for _ in range(count):
            ours, theirs = forking.Pipe()
            told = (theirs, self.log, str(self.settings.data), *rest)
            process = forking.Process(target=stub_worker.forked, args=told)
            process.start()
            theirs.close()
            self.workers.append(Worker(process, ours))
        until(lambda: len(self.executors() - before) == count)
        return self.workers[-1]

    def executors(self) -> set[str]:
        """Of workers that have come and have not left, nor been found dead."""
        with self.engine.connect() as c:
            return set(c.scalars(sa.select(workers.c.executor)))

    def submit(
        self,
        seed: int = 1,
        *,
        steps: int = 2,
        client: str = "alice",
        key: str | None = None,
        queue: int = 100,
        per_client: int = 100,
    ) -> Job:
        order = Order(
            id=secrets.token_hex(32),
            client=client,
            door="own",
            model="tiny",
            asked={"seed": seed, "steps": steps, "frames": 2},
            notes={},
            keep=3600,
            key=key,
            digest="the same",
        )
        self.files.write(f"{folder_of(order.id)}/photo", PHOTO)
        return self.jobs.submit(order, queue=queue, per_client=per_client)[0]

    def reached(self, job: Job, what: Callable[[Job], bool]) -> Job:
        """The job as soon as it is so far."""
        return until(lambda: now if what(now := self.jobs.get(job.id)) else None)

    def ended(self, job: Job) -> Job:
        return self.reached(job, lambda now: now.ended)

    def replayed(self, job: Job) -> int:
        """Steps that the worker that ended it did not make anew; the clip must be there."""
        assert job.state == "succeeded", job.error
        assert job.result is not None
        frames = Clip.open(self.files.path(f"{job.folder}/clip.mp4")).frames
        assert abs(frames.astype(int) - job.asked["seed"]).max() <= 5
        until(lambda: not self.files.path(f"{job.folder}/state").exists())
        return job.result["recipe"]["replayed"]

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.is_alive():
                worker.kill()
        if self.engine.dialect.name == "sqlite":
            with self.engine.connect() as c:
                assert c.scalar(sa.text("PRAGMA integrity_check")) == "ok"
        self.service.close()


@pytest.fixture(scope="session")
def server() -> Generator[Postgres]:
    if not installed():
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with postgres() as started:
        yield started


@pytest.fixture(params=["sqlite", "postgresql"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[House]:
    database = None
    if request.param == "postgresql":
        database = request.getfixturevalue("server").create()
    made = House(tmp_path / "data", database, tmp_path / "log")
    yield made
    made.close()


def test_a_job_whose_worker_died_goes_on_where_it_was(house: House) -> None:
    first = house.worker(0.2)
    job = house.submit(steps=8)
    house.reached(job, lambda now: now.step >= 4)
    first.kill()
    draft = house.files.path(f"{job.folder}/.half-written")
    draft.touch()
    house.worker(0.2)
    house.reached(job, lambda now: now.deaths == 1)
    assert house.replayed(house.ended(job)) >= 3
    until(lambda: not draft.exists())


def test_a_job_that_two_workers_died_of_has_failed_and_the_third_lives(house: House) -> None:
    house.worker(count=3)
    job = house.ended(house.submit(stub_worker.FATAL_SEED))
    assert (job.state, job.deaths) == ("failed", 2)
    assert job.error is not None
    assert job.error["code"] == "worker_died"
    assert house.replayed(house.ended(house.submit(2))) == 0


def test_a_worker_taken_for_dead_can_not_end_a_job_twice(house: House) -> None:
    first = house.worker(0.2)
    job = house.submit(steps=8)
    house.reached(job, lambda now: now.step >= 2)
    stop(first, house)
    second = house.worker(0.2)
    done = house.ended(job)
    clip = house.files.read(f"{job.folder}/clip.mp4")
    assert house.replayed(done) >= 1
    first.signal(signal.SIGCONT)
    until(lambda: count_workers(house.service.database) == {"tiny": 2})
    second.kill()
    after = house.ended(house.submit(2))  # made by the one that was stopped: it can work on
    assert after.executor not in (None, done.executor)
    assert house.jobs.get(job.id) == done
    assert house.files.read(f"{job.folder}/clip.mp4") == clip
    assert not house.files.path(f"{job.folder}/state").exists()


def stop(worker: Worker, house: House) -> None:
    """Stop a process, on SQLite not in the midst of a transaction: nobody could ever end that."""
    worker.signal(signal.SIGSTOP)
    while house.engine.dialect.name == "sqlite":
        other = sqlite3.connect(house.settings.data / "kinora.sqlite", timeout=0.5)
        try:
            other.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError:
            worker.signal(signal.SIGCONT)
            time.sleep(0.05)
            worker.signal(signal.SIGSTOP)
        finally:
            other.close()


def test_who_is_stopped_in_mid_transaction_locks_nobody_out(
    server: Postgres, tmp_path: Path
) -> None:
    house = House(tmp_path / "data", server.create(), tmp_path / "log")
    job = house.submit()
    with house.engine.connect() as c:
        c.execute(jobs.update().where(jobs.c.id == job.id).values(step=1))
        until(lambda: attempted(lambda: house.jobs.cancel(job.id)))
        with pytest.raises(sa.exc.DBAPIError) as woken:
            c.execute(jobs.update().where(jobs.c.id == job.id).values(step=2))
    assert is_away(woken.value)
    done = house.jobs.get(job.id)
    assert (done.state, done.step) == ("cancelled", 0)
    house.close()


def attempted(change: Callable[[], T]) -> T | None:
    with suppress(Busy):
        return change()
    return None


def test_a_result_that_comes_too_late_is_refused_and_takes_nothing_away(house: House) -> None:
    job = house.submit(steps=4)
    works, events = list[Work](), list[Generator[Event]]()
    for executor in ("late", "next"):
        leases = Leases(house.service.database, executor, "tiny", "stub float32")
        works.append(Work(stub_worker.Stub(0.0), leases, house.files))
        lease = works[-1].take()
        assert lease is not None
        events.append(works[-1].make(lease))
        assert any(isinstance(event, Sampled) and event.step == 4 for event in events[-1])
        if executor == "late":  # it is taken for dead, and the other one goes on
            with house.engine.begin() as c:
                requeue(c, ["late"], deaths=1)
    kept = f"{job.folder}/state/answers-0.safetensors"
    assert house.files.exists(kept)
    assert [type(event) for event in events[0]] == []
    assert house.jobs.get(job.id).state == "running"
    assert house.files.exists(kept)
    assert list(events[1])
    assert house.replayed(house.jobs.get(job.id)) == 4
    for work in works:
        work.close()


def test_a_worker_that_leaves_gives_its_job_back(house: House) -> None:
    told = house.worker(0.2)
    job = house.submit(steps=12)
    house.reached(job, lambda now: now.step >= 2)
    told.signal(signal.SIGTERM)
    told.process.join(PATIENCE)
    assert told.process.exitcode == 0
    assert house.jobs.get(job.id).state == "queued"

    orphan = house.worker(0.2)
    house.reached(job, lambda now: now.step >= 6)
    orphan.stdin.close()  # as it is when the parent is gone
    orphan.process.join(PATIENCE)
    assert orphan.process.exitcode == 0

    house.worker()
    done = house.ended(job)
    assert house.replayed(done) >= 4
    assert done.deaths == 0


def test_a_job_of_a_worker_that_nobody_knows_is_not_lost(house: House) -> None:
    job = house.submit()
    with house.engine.begin() as c:
        c.execute(jobs.update().values(state="running", executor="gone"))
    house.worker()
    assert house.replayed(house.ended(job)) == 0


def test_a_job_goes_on_with_the_weights_and_the_precision_that_it_began_with(house: House) -> None:
    first = house.worker(0.2, binding="a float16")
    job = house.submit(steps=100)
    assert house.reached(job, lambda now: now.step >= 1).binding == "a float16"
    house.worker(0.0, binding="b float32")
    house.worker(0.0, binding="a float16")
    house.reached(job, lambda now: now.step >= 26)
    first.kill()
    assert house.replayed(done := house.ended(job)) >= 25  # two parts of eight
    assert done.binding == "a float16"
    assert done.deaths == 1


def test_a_job_that_no_worker_of_its_kind_is_left_for_begins_anew(house: House) -> None:
    first = house.worker(0.2, binding="a float16")
    job = house.submit(steps=100)
    house.reached(job, lambda now: now.step >= 1)
    house.worker(0.0, binding="b float32")
    house.reached(job, lambda now: now.step >= 14)
    first.kill()
    assert house.replayed(done := house.ended(job)) == 0
    assert done.binding == "b float32"


def test_a_job_waits_for_a_busy_worker_of_its_kind_while_others_go_on(house: House) -> None:
    house.worker(0.2, binding="a float16")
    long = house.submit(steps=100)
    house.reached(long, lambda now: now.step >= 1)
    bound, free = house.submit(2, steps=1), house.submit(3, steps=1)
    with house.engine.begin() as c:
        c.execute(jobs.update().where(jobs.c.id == bound.id).values(binding="a float16"))
    house.worker(binding="b float32")
    assert house.ended(free).binding == "b float32"
    assert house.jobs.get(bound.id).state == "queued"
    assert house.ended(bound).executor == house.ended(long).executor


def test_a_job_of_an_earlier_version_goes_on_with_any_worker(house: House) -> None:
    first = house.worker(0.2)
    job = house.submit(steps=8)
    house.reached(job, lambda now: now.step >= 4)
    first.kill()
    with house.engine.begin() as c:  # as tables were before
        for table in ("kinora_jobs", "kinora_workers"):
            c.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN binding"))
    upgraded = House(house.settings.data, house.settings.database, house.log)
    upgraded.worker(0.0, binding="b float32")
    assert upgraded.replayed(upgraded.ended(job)) >= 3
    upgraded.close()


def test_a_running_job_is_cancelled_within_a_step(house: House) -> None:
    house.worker(0.2)
    job = house.submit(steps=100)
    house.reached(job, lambda now: now.step >= 1)
    before = house.jobs.cancel(job.id)
    done = house.ended(job)
    assert done.state == "cancelled"
    assert done.step <= before.step + 2  # one was in the making, and one may not be told of yet
    assert not house.files.exists(f"{job.folder}/clip.mp4")
    assert house.replayed(house.ended(house.submit(2))) == 0


def test_workers_share_the_jobs_and_each_is_done_once(house: House) -> None:
    submitted = [house.submit(seed, steps=3) for seed in range(10, 22)]
    house.worker(0.1, count=2)
    done = [house.ended(job) for job in submitted]
    assert [house.replayed(job) for job in done] == [0] * 12
    assert all(job.deaths == 0 for job in done)
    assert len({job.executor for job in done}) == 2


def test_who_asks_for_one_clip_does_not_wait_for_all_of_somebody_elses(house: House) -> None:
    many = [house.submit(seed, steps=1, client="alice") for seed in range(20)]
    one = house.submit(30, steps=1, client="bob")
    house.worker()
    started = [house.ended(job).started or 0.0 for job in many]
    before = sum(at < (house.ended(one).started or 0.0) for at in started)
    assert before <= 1
    assert started == sorted(started)


def test_a_full_queue_takes_nothing(house: House) -> None:
    for seed in range(3):
        house.submit(seed, client="alice")
    for limits in ({"queue": 3}, {"per_client": 3}):
        with pytest.raises(Full):
            house.submit(client="alice", **limits)
    house.submit(client="bob", per_client=3)
    assert house.jobs.counts() == {"queued": 4}


def test_one_key_gives_one_job_however_many_ask_at_a_time(house: House) -> None:
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: house.submit(key="mine").id, range(20)))
    assert len(set(found)) == 1
    assert house.jobs.counts() == {"queued": 1}
    assert house.submit(key="mine", client="bob").id != found[0]


@contextmanager
def locked(house: House) -> Generator[None]:
    """Somebody else has the database to themselves."""
    if house.engine.dialect.name == "sqlite":
        other = sqlite3.connect(house.settings.data / "kinora.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        yield
        other.close()
    else:
        other = sa.create_engine(house.engine.url)  # whose patience has no limits
        with other.begin() as c:
            c.execute(sa.text("LOCK TABLE kinora_jobs, kinora_workers"))
            yield
        other.dispose()


def test_a_worker_that_is_to_leave_does_not_wait_for_a_locked_database(house: House) -> None:
    told = house.worker(0.2)
    job = house.submit(steps=12)
    house.reached(job, lambda now: now.step >= 4)
    with locked(house):
        told.signal(signal.SIGTERM)
        told.process.join(PATIENCE)
        assert told.process.exitcode == VANISHED
    house.worker()
    assert house.replayed(house.ended(job)) >= 2


def test_a_locked_database_is_told_of_and_nobody_is_taken_for_dead(house: House) -> None:
    house.worker(0.2, count=2)
    job = house.submit(steps=8)
    house.reached(job, lambda now: now.step >= 2)
    assert 2 * LOCK_SECONDS > SILENCE  # so long is it locked
    with locked(house):
        for _ in range(2):
            with pytest.raises(Busy, match="locked"):
                house.submit(2)
    done = house.ended(job)
    house.replayed(done)
    assert done.deaths == 0
    assert house.replayed(house.ended(house.submit(3))) == 0
    assert house.jobs.counts() == {"succeeded": 2}


def test_a_worker_outlives_its_database_server(server: Postgres, tmp_path: Path) -> None:
    house = House(tmp_path / "data", server.create(), tmp_path / "log")
    worker = house.worker(0.2)
    job = house.submit(steps=12)
    house.reached(job, lambda now: now.step >= 2)
    server.kill()
    with pytest.raises(Busy, match="reached"):
        house.submit(2)
    server.start()
    done = house.ended(job)
    house.replayed(done)
    assert done.deaths == 0
    assert house.replayed(house.ended(house.submit(3))) == 0
    assert worker.process.is_alive()
    house.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def crowded(request: pytest.FixtureRequest, small_disk: Path, tmp_path: Path) -> Generator[House]:
    """A house whose database has little room; on SQLite its files too."""
    if request.param == "sqlite":
        made = House(small_disk / "data", None, tmp_path / "log")
        yield made
        made.close()
    else:
        server: Postgres = request.getfixturevalue("server")
        url = server.create(small_disk / "tables")
        made = House(tmp_path / "data", url, tmp_path / "log")
        yield made
        made.close()
        server.drop(url)


def test_a_full_disk_is_told_of_and_corrupts_nothing(crowded: House, small_disk: Path) -> None:
    crowded.worker(0.2)
    job = crowded.submit(steps=12)
    crowded.reached(job, lambda now: now.step >= 2)
    filling = small_disk / "filling"
    fill(filling)
    accepted = submit_until_full(crowded)
    time.sleep(2)  # steps are made and can't be kept
    filling.unlink()
    for done in map(crowded.ended, [job, *accepted]):
        if done.state == "failed":
            assert done.error is not None
            assert "full" in done.error["message"]
        else:
            crowded.replayed(done)
    assert crowded.replayed(crowded.ended(crowded.submit(3))) == 0
    assert not list(crowded.files.path(".").rglob(".*"))


def submit_until_full(house: House) -> list[Job]:
    """The jobs that were taken until then: PostgreSQL has room in the pages that it has begun."""
    accepted: list[Job] = []
    while True:
        try:
            accepted.append(house.submit(2, steps=1, queue=1000, per_client=1000))
        except Busy:
            return accepted
