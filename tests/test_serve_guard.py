"""Laws of who may come in, and with how much."""

import base64
import json
import socket
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from structlog.testing import capture_logs

from kinora.errors import RequestError
from kinora.serve.access import ANYONE, Access, Client, hashed, is_loopback, new_token
from kinora.serve.errors import TooMany, Unknown
from kinora.serve.run import run_service
from kinora.serve.settings import Limits, Settings
from tests.cli import Kinora, kinora
from tests.postgres import installed, postgres
from tests.serving import picture, running, submitted
from tests.waiting import PATIENCE, until

__all__ = ["kinora"]

ALICE, BOB, SLOW = "alice-token", "bob-token", "slow-token"

CLIENTS = {
    hashed(ALICE): Client(name="alice"),
    hashed(BOB): Client(name="bob", jobs=2),
    hashed(SLOW): Client(name="slow", requests=3),
}


@pytest.fixture(scope="module")
def open_client(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    limits = Limits(body=1 << 20)
    with running(tmp_path_factory.mktemp("open"), worker=False, limits=limits) as client:
        yield client


@pytest.fixture(scope="module")
def closed_client(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    access = Access(CLIENTS, 100_000)
    folder = tmp_path_factory.mktemp("closed")
    with running(folder, worker=False, access=access, limits=Limits(queue=4)) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


# Where nobody shows a token.


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "[:"])
@pytest.mark.parametrize("path", ["/healthz", "/api/v1/jobs", "/v1/videos", "/nowhere"])
def test_only_this_machine_is_answered(open_client: httpx.Client, host: str, path: str) -> None:
    assert open_client.get(path, headers={"host": host}).status_code in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "localhost:7860"])
def test_this_machine_has_several_names(open_client: httpx.Client, host: str) -> None:
    assert open_client.get("/api/v1/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/jobs", "/v1/videos", "/v2beta/image-to-video", "/login"])
def test_pages_of_other_sites_call_nothing(
    open_client: httpx.Client, headers: dict[str, str], path: str
) -> None:
    assert open_client.post(path, headers=headers).status_code == 403


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/api/v1/jobs/none", "/login"])
def test_every_answer_says_what_browsers_may_do(open_client: httpx.Client, path: str) -> None:
    headers = open_client.get(path).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-request-id"]
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers or headers["server"] == "uvicorn"


PART = b'--x\r\ncontent-disposition: form-data; name="photo"; filename="a"\r\n\r\n'


def test_a_large_body_is_refused_before_it_is_read(open_client: httpx.Client) -> None:
    answer = open_client.post("/api/v1/jobs", files={"photo": bytes(2 << 20)})
    assert answer.status_code == 413
    assert "at most 1 MiB" in answer.json()["error"]["message"]


def test_a_body_that_does_not_tell_its_length_is_counted(open_client: httpx.Client) -> None:
    def parts() -> Generator[bytes]:
        yield PART
        for _ in range(200):
            yield bytes(1 << 14)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    try:
        answer = open_client.post("/api/v1/jobs", content=parts(), headers=headers)
    except httpx.WriteError:  # the connection was closed while it was still being sent
        return
    assert answer.status_code == 413


def sent_slowly(client: httpx.Client, pause: float, parts: int) -> bytes:
    """What is answered to a body of which parts come after pauses, but never its end."""
    head = b"POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n"
    head += b"content-type: multipart/form-data; boundary=x\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as s:
        s.settimeout(PATIENCE)
        s.sendall(head + PART)
        for _ in range(parts):
            time.sleep(pause)
            s.sendall(b"-")
        return s.recv(1000)


@pytest.fixture(scope="module")
def hasty_client(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    limits = Limits(stall_seconds=0.5, upload_seconds=1.5)
    with running(tmp_path_factory.mktemp("hasty"), worker=False, limits=limits) as client:
        yield client


def test_a_stalled_upload_ends(hasty_client: httpx.Client) -> None:
    assert b" 408 " in sent_slowly(hasty_client, 0.0, 1)


def test_a_dripping_upload_ends(hasty_client: httpx.Client) -> None:
    assert b" 408 " in sent_slowly(hasty_client, 0.3, 6)


def test_what_is_no_http_is_no_trouble(open_client: httpx.Client) -> None:
    where = (open_client.base_url.host, open_client.base_url.port or 0)
    for noise in (b"\x16\x03\x01\x02", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100_000):
        with socket.create_connection(where) as s:
            s.sendall(noise)
    assert open_client.get("/healthz").status_code == 200


def test_what_is_there_can_be_asked_for_its_head(open_client: httpx.Client) -> None:
    for path in ("/healthz", "/api/v1/jobs", "/login"):
        answer = open_client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("origin", ["http://[x", "http://", "x", "http://evil.example:0"])
def test_an_origin_that_is_none_is_foreign(open_client: httpx.Client, origin: str) -> None:
    headers = {"origin": origin, "authorization": "Basic YTpi"}
    assert open_client.post("/api/v1/jobs", headers=headers).status_code == 403


def test_made_up_methods_are_one(open_client: httpx.Client) -> None:
    for number in range(20):
        open_client.request(f"M{number}", "/api/v1/jobs")
    text = open_client.get("/metrics").text
    assert 'method="other"' in text
    assert 'method="M1' not in text


# Where tokens are asked for.


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"authorization": f"Basic {ALICE}"}])
def test_nobody_comes_in_without_a_token(
    closed_client: httpx.Client, headers: dict[str, str]
) -> None:
    paths = ("/api/v1/jobs", "/v1/videos", "/v2beta/image-to-video/result/a", "/metrics", "/x")
    for path in paths:
        answer = closed_client.get(path, headers=headers)
        assert answer.status_code == 401
        assert "token" in answer.text
    assert closed_client.get("/healthz").status_code == 200


def test_clients_see_their_own_jobs_only(closed_client: httpx.Client) -> None:
    files = {"photo": picture()}
    job = closed_client.post("/api/v1/jobs", files=files, headers=bearer(ALICE)).json()
    for path in (job["links"]["self"], f"/v1/videos/{job['id']}", job["links"]["events"]):
        assert closed_client.get(path, headers=bearer(BOB)).status_code == 404
    assert closed_client.delete(job["links"]["self"], headers=bearer(BOB)).status_code == 404
    assert closed_client.get("/api/v1/jobs", headers=bearer(BOB)).json()["jobs"] == []
    assert closed_client.get(job["links"]["self"], headers=bearer(ALICE)).status_code == 200


def test_jobs_that_wait_are_bounded(closed_client: httpx.Client) -> None:
    def ask(token: str) -> httpx.Response:
        files = {"photo": picture()}
        return closed_client.post("/api/v1/jobs", files=files, headers=bearer(token))

    own = [ask(BOB) for _ in range(3)]
    assert [answer.status_code for answer in own] == [202, 202, 429]
    assert "2 of your jobs" in own[-1].json()["error"]["message"]
    everybodys = [ask(ALICE) for _ in range(4)][-1]
    assert everybodys.status_code == 429
    assert int(everybodys.headers["retry-after"]) > 0
    assert len(closed_client.get("/api/v1/jobs", headers=bearer(BOB)).json()["jobs"]) == 2


def test_requests_a_minute_are_bounded(closed_client: httpx.Client) -> None:
    codes = [
        closed_client.get("/api/v1/models", headers=bearer(SLOW)).status_code for _ in range(4)
    ]
    assert codes == [200, 200, 200, 429]
    assert closed_client.get("/api/v1/models", headers=bearer(ALICE)).status_code == 200


def test_who_has_no_token_can_not_lock_others_out(tmp_path: Path) -> None:
    with running(tmp_path, worker=False, access=Access(CLIENTS, 5)) as client:
        codes = [client.get("/api/v1/jobs").status_code for _ in range(7)]
        assert codes == [401] * 5 + [429] * 2
        assert client.get("/readyz").status_code == 200
        assert client.get("/api/v1/jobs", headers=bearer(ALICE)).status_code == 200
        lower = {"authorization": f"bearer {ALICE}"}
        assert client.get("/api/v1/jobs", headers=lower).status_code == 200


def test_a_browser_shows_its_token_once(closed_client: httpx.Client) -> None:
    page = closed_client.get("/", headers={"accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    assert closed_client.post("/login", data={"token": "wrong"}).status_code == 401
    entered = closed_client.post("/login", data={"token": ALICE})
    cookie = entered.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    jar = {"cookie": f"kinora_token={ALICE}"}
    assert closed_client.get("/api/v1/jobs", headers=jar).status_code == 200
    foreign = {**jar, "origin": "http://evil.example"}
    assert closed_client.post("/api/v1/jobs", headers=foreign).status_code == 403
    assert "kinora_token" in closed_client.cookies
    assert closed_client.post("/logout").headers["location"] == "/login"
    assert "kinora_token" not in closed_client.cookies


def test_no_secret_is_logged(closed_client: httpx.Client) -> None:
    with capture_logs() as lines:
        closed_client.get("/api/v1/jobs", headers=bearer(ALICE))
        closed_client.get("/api/v1/jobs?token=" + ALICE, headers=bearer("wrong-" + ALICE))
        closed_client.get("/api/v1/jobs", headers={"cookie": f"kinora_token={ALICE}"})
        closed_client.post("/login", data={"token": ALICE})
        until(lambda: len(lines) == 4)  # a line is written after its answer
    closed_client.cookies.clear()
    assert [line["event"] for line in lines] == ["request"] * 4
    assert {line["client"] for line in lines} == {"alice", "nobody"}
    assert ALICE not in json.dumps(lines)


def test_the_page_of_the_login_needs_nothing_from_elsewhere(closed_client: httpx.Client) -> None:
    text = closed_client.get("/login").text
    assert "http://" not in text
    assert "https://" not in text


# Tokens.


def test_tokens_of_a_file_are_known_by_their_hashes(tmp_path: Path, kinora: Kinora) -> None:
    told = kinora("token", "studio", "--jobs", "5", "--requests", "60")
    file = tmp_path / "tokens.jsonl"
    file.write_text(told.out)
    token = told.err.rsplit(maxsplit=1)[-1]
    assert token not in told.out
    access = Access.of(None, file, 100)
    assert access.client(token) == Client(name="studio", jobs=5, requests=60)
    for wrong in (None, "", token[:-1], hashed(token)):
        with pytest.raises(Unknown):
            access.client(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"name": "a"}',
        '{"sha256": "b", "x": 1}',
        "[]",
        "1",
        *(
            json.dumps({"name": "a", "sha256": "0" * 64, **wrong})
            for wrong in ({"jobs": "20"}, {"jobs": 0}, {"name": "nobody"}, {"name": "a" * 80})
        ),
        json.dumps({"name": "a", "sha256": "none"}),
    ],
)
def test_a_file_that_holds_no_tokens_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tokens.jsonl"
    file.write_text(text)
    with pytest.raises(RequestError, match=r"tokens\.jsonl"):
        Access.of(None, file, 100)


def test_requests_are_counted_by_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    access, now = Access({}, 2), [100.0]
    monkeypatch.setattr("kinora.serve.access.monotonic", lambda: now[0])
    for _ in range(2):
        access.count("someone")
    with pytest.raises(TooMany):
        access.count("someone")
    access.count("somebody else")
    access.count("someone", 5)
    now[0] += 61
    access.count("someone")


def test_those_who_came_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinora.serve.access.REMEMBERED", 10)
    access = Access({}, 5)
    for number in range(1000):
        access.count(f"from 10.0.0.{number}")
        assert len(access.recent) <= 10


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock by which files are looked at again."""
    now = [100.0]
    monkeypatch.setattr("kinora.serve.access.monotonic", lambda: now[0])
    return now


def line(name: str, token: str) -> str:
    return json.dumps({"name": name, "sha256": hashed(token)}) + "\n"


def admitted(access: Access, token: str) -> bool:
    try:
        return access.client(token).name != ANYONE.name
    except Unknown:
        return False


def test_clients_come_and_go_while_it_runs(tmp_path: Path, seconds: list[float]) -> None:
    file = tmp_path / "tokens.jsonl"
    file.write_text(line("a", "one"))
    access = Access.of(None, file, 5)
    assert admitted(access, "one")
    for text, known in (
        (line("b", "two"), {"two"}),
        ("damaged\n" + line("b", "two"), {"two"}),  # line by line
        (line("a", "one") + line("b", "two")[:-5], {"one"}),
        ("", set[str]()),
        ("damaged", set[str]()),
        (line("c", "three"), {"three"}),
        (None, set[str]()),
    ):
        file.unlink() if text is None else file.write_text(text)
        seconds[0] += 5
        assert {token for token in ("one", "two", "three") if admitted(access, token)} == known
        assert not access.open


def test_a_token_besides_holds_whatever_becomes_of_the_file(
    tmp_path: Path, seconds: list[float]
) -> None:
    file, shared = tmp_path / "tokens.jsonl", "a token of sixteen or more"
    access = Access.of(shared, file, 5)
    assert admitted(access, shared)
    file.write_text(line("a", "one"))
    seconds[0] += 5
    assert admitted(access, "one")
    file.unlink()
    seconds[0] += 5
    assert not admitted(access, "one")
    assert admitted(access, shared)


def test_a_damaged_line_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "tokens.jsonl"
    file.write_text(line("b", "two") + json.dumps({"name": "a", "sha256": "the secret itself"}))
    with capture_logs() as lines:
        Access.of(None, file, 5)
    assert "line 2" in str(lines)
    assert "secret" not in str(lines)


@pytest.mark.parametrize("token", ["", "   ", "short"])
def test_a_token_that_is_none_opens_nothing(token: str) -> None:
    with pytest.raises(RequestError, match="characters"):
        Access.of(token, None, 5)
    with pytest.raises(Unknown):
        Access(CLIENTS, 5).client(token)


def test_tokens_are_long_and_never_the_same() -> None:
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(len(token) >= 40 for token in made)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "example.com"])
def test_others_come_in_only_with_a_token(tmp_path: Path, host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(RequestError, match="--token"):
        run_service(Settings(data=tmp_path / "data"), Access({}, 1), host=host, port=0, worker=None)
    assert not (tmp_path / "data").exists()


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match="--port"):
            run_service(
                Settings(data=tmp_path), Access({}, 1), host="127.0.0.1", port=port, worker=None
            )


@pytest.mark.parametrize("host", ["10.99.98.97", "no.such.host.invalid"])
def test_an_address_of_elsewhere_is_told(tmp_path: Path, host: str) -> None:
    access = Access({hashed(ALICE): Client(name="alice")}, 1)
    with pytest.raises(RequestError, match="--host"):
        run_service(Settings(data=tmp_path), access, host=host, port=0, worker=None)


def test_a_worker_that_can_not_work_ends_the_service(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('out of ideas')"]
    settings, access = Settings(data=tmp_path), Access({}, 1)
    with pytest.raises(RequestError, match="said above"):
        run_service(settings, access, host="127.0.0.1", port=0, worker=command, page=False)


def test_what_the_page_looks_like_is_not_counted(closed_client: httpx.Client) -> None:
    headers = {"authorization": f"Bearer {SLOW}"}
    paths = ["/assets/index.js", "/static/x.woff2", "/theme.css"] * 4
    assert {closed_client.get(path, headers=headers).status_code for path in paths} == {404}


# Anything at all.


@pytest.fixture(params=["sqlite", "postgresql"])
def document(
    request: pytest.FixtureRequest, open_client: httpx.Client, tmp_path: Path
) -> Generator[schemathesis.schemas.BaseSchema]:
    with ExitStack() as stack:
        client = open_client
        if request.param == "postgresql":
            if not installed():
                pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
            url = stack.enter_context(postgres()).create()
            client = stack.enter_context(running(tmp_path, worker=False, database=url))
        yield schemathesis.openapi.from_url(f"{client.base_url}/api/openapi.json")


def test_no_request_breaks_the_service(document: schemathesis.schemas.BaseSchema) -> None:
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def never_breaks(case: schemathesis.Case) -> None:
            assert case.call(timeout=PATIENCE).status_code not in range(500, 600)

        never_breaks()


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"a": ' * 50_000, b"\xff", b"nul", b"[1]", b'{"size": {}}', b""]
)
def test_json_that_is_none_is_refused(open_client: httpx.Client, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = open_client.post("/v1/videos", content=body, headers=headers)
    assert answer.status_code == 422


@pytest.mark.parametrize("id", ["%00", "%ff", "..%2f..%2fx", "a" * 64, "é" * 64, "f" * 5000])
def test_ids_that_are_none_name_nothing(open_client: httpx.Client, id: str) -> None:
    for path in ("/api/v1/jobs/{}", "/api/v1/jobs/{}/events", "/v1/videos/{}/content"):
        assert open_client.get(path.format(id)).status_code == 404
    assert open_client.get(f"/api/v1/jobs?after={id}").status_code == 404
    assert open_client.delete(f"/api/v1/jobs/{id}").status_code == 404


def test_json_of_a_million_values_is_refused_unread(open_client: httpx.Client) -> None:
    body = b'{"x":[' + b"{}," * 200_000 + b"{}]}"
    headers = {"content-type": "application/json"}
    answer = open_client.post("/v1/videos", content=body, headers=headers)
    assert answer.status_code == 422


def test_a_prompt_may_be_anything(open_client: httpx.Client) -> None:
    url = f"data:image/png;base64,{base64.b64encode(picture()).decode()}"
    body = json.dumps({"prompt": "\ud800 \0 é", "input_reference": {"image_url": url}})
    headers = {"content-type": "application/json"}
    answer = open_client.post("/v1/videos", content=body, headers=headers)
    assert answer.status_code == 200
    assert open_client.get("/v1/videos").json()["data"][0]["prompt"] == "? \0 é"


def test_jobs_come_through_after_all_that(open_client: httpx.Client) -> None:
    assert submitted(open_client)["state"] == "queued"
