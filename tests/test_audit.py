"""Laws of looking for known vulnerabilities, with a service that tells of some."""

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tools import audit

VULNERABLE = {
    ("alpha", "1.0"): "GHSA-aaaa",
    ("gamma", "3.0"): "GHSA-q45j-58j2-45rg",  # which is accepted
}
DETAILS = {
    "summary": "It leaks",
    "affected": [
        {
            "package": {"name": "alpha"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


class Osv(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["queries"]
        pins = [(query["package"]["name"], query["version"]) for query in asked]
        found = [{"vulns": [{"id": VULNERABLE[p]}]} if p in VULNERABLE else {} for p in pins]
        self._send({"results": found})

    def do_GET(self) -> None:
        self._send({**DETAILS, "id": self.path.rpartition("/")[2]})

    def _send(self, answer: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def osv(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    with HTTPServer(("127.0.0.1", 0), Osv) as server:
        monkeypatch.setenv("KINORA_OSV", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.mark.usefixtures("osv")
@pytest.mark.parametrize(
    ("pins", "code"), [("alpha==1.0\nbeta==2.0\n", 1), ("# none\nbeta==2.0\ngamma==3.0\n", 0)]
)
def test_what_is_known_is_told_with_the_version_that_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pins: str, code: int
) -> None:
    (tmp_path / "pins").write_text(pins)
    assert audit.main(str(tmp_path / "pins")) == code
    said = capsys.readouterr().out
    assert ("alpha==1.0  GHSA-aaaa  fixed in 1.1\n    It leaks" in said) == bool(code)
    assert f"2 packages: {code} known vulnerabilities, {1 - code} accepted" in said


def test_who_can_not_ask_does_not_say_that_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KINORA_OSV", "http://127.0.0.1:9")
    assert audit.main() == 2
    assert "nothing is known" in capsys.readouterr().err


def test_all_pins_are_read() -> None:
    lines = Path("constraints.txt").read_text().splitlines()
    assert len(audit.pins(Path("constraints.txt"))) == sum("==" in line for line in lines)
