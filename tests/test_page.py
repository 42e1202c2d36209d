"""The page, in a browser: what somebody with a photo can do on it, and what nobody can."""

import io
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

from tests.waiting import PATIENCE, until

CHROMIUM = shutil.which("chromium")
expect.set_options(timeout=1000 * PATIENCE)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium isn't here: apt install chromium"
)

SERVER = """
import sys
from pathlib import Path
from kinora.serve.access import Access
from kinora.serve.run import run_service
from kinora.serve.settings import Settings

data, port, worker = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
command = [sys.executable, "-c", worker, str(data)]
run_service(
    Settings(data=data, model="nano"), Access({}, 100_000), host="127.0.0.1", port=port,
    worker=command,
)
"""
WORKER = """
import sys
from pathlib import Path
from kinora.serve.settings import Settings
from kinora.serve.worker import run_worker
from tests.stub_worker import Stub

run_worker(Settings(data=Path(sys.argv[1]), model="nano"), lambda: Stub(0.06), attached=True)
"""


def picture(size: tuple[int, int] = (96, 64)) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, "PNG")
    return file.getvalue()


PHOTO: Any = {"name": "beach.png", "mimeType": "image/png", "buffer": picture()}


class Server:
    """A service as somebody runs it, which can be stopped and started again."""

    def __init__(self, data: Path) -> None:
        self.data = data
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", SERVER, str(self.data), str(self.port), WORKER]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(self._answers)

    def _answers(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/healthz", timeout=PATIENCE).is_success
        return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def jobs(self) -> list[dict[str, Any]]:
        return httpx.get(f"{self.url}/api/v1/jobs", timeout=PATIENCE).json()["jobs"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    server = Server(tmp_path_factory.mktemp("page"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def playwright() -> Generator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Generator[Browser]:
    """A browser without internet."""
    nowhere = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    args = ["--no-sandbox", nowhere]
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def visitor(browser: Browser) -> Generator[BrowserContext]:
    with browser.new_context() as visitor:
        yield visitor


@contextmanager
def opened(visitor: BrowserContext, server: Server) -> Generator[Page]:
    """The page, all of which must come from the server."""
    asked: list[str] = []
    faults: list[str] = []
    with visitor.new_page() as page:
        page.set_default_timeout(1000 * PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(server.url)
        ready = page.locator("#stage").locator(".k-empty, .k-card").first
        expect(ready).to_be_visible(timeout=1000 * PATIENCE)
        yield page
        assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []
        assert faults == []


@pytest.fixture
def page(visitor: BrowserContext, server: Server) -> Generator[Page]:
    with opened(visitor, server) as page:
        yield page


def choose(page: Page) -> None:
    page.set_input_files("#photo input[type=file]", PHOTO)
    expect(page.locator("#photo img")).to_be_visible()


def shown(page: Page) -> list[str]:
    """Ids of the jobs on the stage."""
    return [str(c.get_attribute("data-job")) for c in page.locator("#stage .k-card").all()]


def make(page: Page, button: str = "#make") -> list[str]:
    """Press a button that begins clips, and have them finished."""
    before = shown(page)
    page.click(button)
    page.wait_for_function(
        "before => { const now = [...document.querySelectorAll('#stage .k-card')]"
        ".map(c => c.dataset.job); return now.length && now.every(id => !before.includes(id)); }",
        arg=before,
    )
    expect(page.locator("#stage [role=progressbar]")).to_have_count(0, timeout=1000 * PATIENCE)
    return shown(page)


def asked(server: Server, id: str) -> dict[str, Any]:
    return httpx.get(f"{server.url}/api/v1/jobs/{id}", timeout=PATIENCE).json()["asked"]


def slowly(page: Page, steps: int = 60) -> None:
    """Ask for so many steps that there is time to look."""
    page.get_by_role("button", name="More settings").click()
    page.locator("#steps textarea, #steps input").fill(str(steps))


def test_a_photo_becomes_a_clip_that_plays(page: Page, server: Server) -> None:
    choose(page)
    [id] = make(page)
    video = page.locator("#stage video")
    page.wait_for_function("document.querySelector('#stage video').readyState >= 2")
    assert video.evaluate("v => v.duration") > 0.3
    assert video.evaluate("v => v.videoWidth") == 64
    assert page.locator("#detail").inner_text().count(str(asked(server, id)["seed"])) >= 1


def test_progress_is_told_and_a_clip_can_be_cancelled(page: Page, server: Server) -> None:
    choose(page)
    slowly(page)
    page.click("#make")
    expect(page.locator("#stage")).to_contain_text(re.compile(r"Step \d+ of 60, about \d+ s left"))
    bar = page.locator("#stage [role=progressbar]")
    assert 0 <= int(bar.get_attribute("aria-valuenow") or "-1") < 100
    expect(page.locator("#stage img")).to_have_attribute("src", re.compile(r"preview\.jpg\?n="))
    page.click("#cancel")
    expect(page.locator("#stage")).to_contain_text("Cancelled")
    expect(page.locator("#cancel")).to_be_hidden()
    assert server.jobs()[0]["state"] == "cancelled"


def test_a_closed_page_loses_nothing(visitor: BrowserContext, server: Server) -> None:
    with opened(visitor, server) as page:
        choose(page)
        slowly(page)
        page.click("#make")
        expect(page.locator("#stage")).to_contain_text("Step")
        [id] = shown(page)
    with opened(visitor, server) as page:
        expect(page.locator(f"#stage [data-job='{id}']")).to_be_visible()
        page.click("#cancel")
        expect(page.locator("#stage")).to_contain_text("Cancelled")


def test_four_seeds_stand_side_by_side(page: Page, server: Server) -> None:
    choose(page)
    page.locator("#seed textarea, #seed input").fill("40")
    ids = make(page, "#four")
    assert [asked(server, id)["seed"] for id in ids] == [40, 41, 42, 43]
    expect(page.locator("#stage video")).to_have_count(4)
    page.reload()
    expect(page.locator("#stage video")).to_have_count(4)
    assert shown(page) == ids
    page.get_by_role("button", name="Choose this one").nth(2).click()
    expect(page.locator("#stage video")).to_have_count(1)
    assert shown(page) == [ids[2]]


def test_again_changes_the_seed_and_nothing_else(page: Page, server: Server) -> None:
    choose(page)
    page.get_by_label("Draft").check()
    page.locator("#motion input[type=number]").fill("200")
    page.locator("#motion input[type=number]").press("Tab")
    [first] = make(page)
    [second] = make(page, "#again")
    before, after = asked(server, first), asked(server, second)
    assert before.pop("seed") != after.pop("seed")
    assert before == after == {"motion": 200, "quality": "draft"}


def test_settings_of_a_clip_fill_the_form(visitor: BrowserContext, server: Server) -> None:
    values = {"seed": "7", "motion": "33", "quality": "fast", "guidance": "1:2", "size": "96x176"}
    files = {"photo": ("a.png", picture())}
    id = httpx.post(f"{server.url}/api/v1/jobs", timeout=PATIENCE, data=values, files=files).json()[
        "id"
    ]
    with opened(visitor, server) as page:
        page.locator(f"#gallery [data-pick='{id}']").click()
        expect(page.locator("#use")).to_be_visible()
        page.click("#use")
        expect(page.locator("#seed textarea, #seed input")).to_have_value("7")
        expect(page.locator("#motion input[type=number]")).to_have_value("33")
        expect(page.get_by_label("Fast")).to_be_checked()
        expect(page.get_by_label("Portrait")).to_be_checked()
        expect(page.locator("#photo img")).to_be_visible()  # the photo comes back too
        page.locator("#seed textarea, #seed input").fill("8")
        [made] = make(page)
    assert asked(server, made) == {**asked(server, id), "seed": 8}


def test_clips_can_be_downloaded_in_three_formats(page: Page) -> None:
    choose(page)
    make(page)
    magic = {"mp4": b"ftyp", "webm": b"\x1a\x45\xdf\xa3", "gif": b"GIF8"}
    for suffix, mark in magic.items():
        with page.expect_download() as download:
            page.get_by_role("link", name=f"Download as {suffix}").click()
        assert re.fullmatch(rf"kinora-\d+\.{suffix}", download.value.suggested_filename)
        assert mark in download.value.path().read_bytes()[:16]


def test_the_part_that_stays_is_cut_out(page: Page, server: Server) -> None:
    wide = {**PHOTO, "buffer": picture((200, 100))}
    page.set_input_files("#photo input[type=file]", wide)
    page.get_by_label("Which part stays").fill("0")
    [id] = make(page)
    sent = httpx.get(f"{server.url}/page/jobs/{id}/photo", timeout=PATIENCE).content
    assert Image.open(io.BytesIO(sent)).size == (100, 100)
    page.get_by_label("Keep all").check()
    [id] = make(page)
    assert (
        httpx.get(f"{server.url}/page/jobs/{id}/photo", timeout=PATIENCE).content == wide["buffer"]
    )


def tab_to(page: Page, what: str) -> None:
    """Press Tab until the focus is on something."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("what => document.activeElement.closest(what) !== null", what):
            return
    raise AssertionError(f"the keyboard doesn't reach {what}")


def test_the_keyboard_is_enough(browser: Browser, server: Server) -> None:
    with browser.new_context() as visitor, opened(visitor, server) as page:
        page.on("filechooser", lambda chooser: chooser.set_files(PHOTO))
        tab_to(page, "#photo input[type=file]")
        page.keyboard.press("Enter")
        expect(page.locator("#photo img")).to_be_visible()
        [before] = shown(page) or [""]
        tab_to(page, "#quality input:checked")
        for _ in range(2):
            page.keyboard.press("ArrowDown")
        expect(page.locator("#quality input[value=fast]")).to_be_checked()
        page.keyboard.press("Tab")
        assert not page.evaluate("document.activeElement.matches('#quality input')")
        tab_to(page, "#make")
        page.keyboard.press("Enter")
        made = page.locator(f"#stage .k-card:not([data-job='{before}']) video")
        expect(made).to_be_visible()
        [id] = shown(page)
        tab_to(page, "#gallery button:not([aria-current])")
        page.keyboard.press("Enter")
        expect(page.locator(f"#stage [data-job='{id}']")).to_have_count(0)


def test_a_photo_that_is_too_large_is_not_even_sent(page: Page, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate((32 << 20) + 1)
    page.set_input_files("#photo input[type=file]", large)
    expect(page.locator("#photo [role=alert]")).to_contain_text("at most 32 MiB")
    expect(page.locator("#photo figure")).to_be_hidden()


def test_a_photo_can_be_pasted_or_dropped(page: Page) -> None:
    give = """([bytes, kind]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], 'image.png', {type: 'image/png'}));
        const event = kind === 'paste'
            ? new ClipboardEvent(kind, {clipboardData: data, bubbles: true})
            : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
        document.body.dispatchEvent(event);
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(give, [list(picture()), kind])
        expect(page.locator("#photo img")).to_be_visible()
        page.get_by_role("button", name="Another photo").click()
        expect(page.locator("#photo img")).to_be_hidden()


def test_what_is_no_photo_gets_one_clear_message(page: Page, server: Server) -> None:
    count = len(server.jobs())
    page.click("#make")
    said = page.locator(".toast-body")
    expect(said).to_have_count(1)
    expect(said).to_contain_text("Choose a photo first")
    page.locator(".toast-close").click()
    text: Any = {"name": "a.png", "mimeType": "image/png", "buffer": b"<script>not a photo"}
    page.set_input_files("#photo input[type=file]", text)
    expect(page.locator("#photo [role=alert]")).to_contain_text("can't be shown")
    page.click("#make")
    expect(said).to_have_count(1)
    expect(said).to_contain_text("photo")
    assert len(server.jobs()) == count


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling_and_the_dark_is_dark(
    browser: Browser, server: Server, scheme: Literal["light", "dark"]
) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
    with (
        browser.new_context(color_scheme=scheme, **phone) as visitor,
        opened(visitor, server) as page,
    ):
        choose(page)
        make(page, "#four")
        page.get_by_role("button", name="More settings").click()
        width = page.evaluate("document.scrollingElement.scrollWidth")
        assert width <= page.evaluate("innerWidth")
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
        assert (max(red, green, blue) < 80) is (scheme == "dark")


def test_every_input_has_a_name(page: Page) -> None:
    page.get_by_role("button", name="More settings").click()
    unnamed = page.evaluate(
        """[...document.querySelectorAll('input, textarea, select, button, video')]
        .filter(e => e.offsetParent && !(e.labels?.length || e.ariaLabel || e.title
            || e.innerText || e.getAttribute('aria-labelledby')))
        .map(e => e.outerHTML)"""
    )
    assert unnamed == []


def test_a_restart_loses_nothing_and_the_page_finds_its_way_back(
    visitor: BrowserContext, server: Server
) -> None:
    with opened(visitor, server) as page:
        choose(page)
        [id] = make(page)
        slowly(page, steps=100)
        page.click("#make")
        expect(page.locator("#stage")).to_contain_text("Step")
        [going] = shown(page)
        page.evaluate("window.old = true")
        server.stop()
        server.start()
        page.wait_for_function("!window.old")
        page.locator(f"#stage [data-job='{going}'] video").wait_for()
        page.locator(f"#gallery [data-pick='{id}']").click()
        page.locator(f"#stage [data-job='{id}'] video").wait_for()
        page.once("dialog", lambda question: question.dismiss())
        page.click("#delete")
        page.once("dialog", lambda question: question.accept())
        expect(page.locator(f"#gallery [data-pick='{id}']")).to_have_count(1)
        page.click("#delete")
        expect(page.locator("#stage")).to_contain_text("will appear here")
        expect(page.locator("#gallery [data-pick]").first).to_be_visible()
        expect(page.locator(f"#gallery [data-pick='{id}']")).to_have_count(0)


HOSTILE = [
    {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"path": "http://169.254.169.254/", "meta": {"_type": "gradio.FileData"}},
    {"path": "x", "url": "http://169.254.169.254/", "meta": {"_type": "gradio.FileData"}},
    [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}],
    {},
]


@pytest.mark.parametrize("value", HOSTILE, ids=json.dumps)
def test_no_file_and_no_url_is_taken_from_a_call(server: Server, value: object) -> None:
    call: dict[str, object] = {
        "data": [value],
        "fn_index": 0,
        "session_hash": "abc",
        "event_data": None,
    }
    answer = httpx.post(f"{server.url}/gradio_api/queue/join", timeout=PATIENCE, json=call)
    assert answer.status_code == 422
    call |= {"data": [], "event_data": {"id": value}}
    assert (
        httpx.post(f"{server.url}/gradio_api/queue/join", timeout=PATIENCE, json=call).status_code
        == 422
    )


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://169.254.169.254/",
        "/gradio_api/proxy=http://169.254.169.254/",
        "/gradio_api/run/predict",
        "/gradio_api/upload_progress?upload_id=a",
        "/gradio_api/runs",
        "/gradio_api/openapi.json",
        "/monitoring",
        "/static/../../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/%2e%2e/requirements.txt",
        "/assets/..%2f..%2f..%2f__init__.py",
        "/page/jobs/none/photo",
    ],
)
def test_what_the_page_does_not_need_is_not_there(server: Server, path: str) -> None:
    assert httpx.get(f"{server.url}{path}", timeout=PATIENCE).status_code == 404


@pytest.mark.parametrize("path", ["upload", "run/predict", "component_server", "vibe-edit"])
def test_gradio_takes_no_uploads(server: Server, path: str) -> None:
    files = {"files": ("../../a.png", picture())}
    answer = httpx.post(f"{server.url}/gradio_api/{path}", timeout=PATIENCE, files=files)
    assert answer.status_code == 404


@pytest.mark.parametrize("name", ["", "../../../etc/passwd", "/etc/passwd", "0" * 32])
def test_a_photo_is_known_by_the_service_s_own_names_only(server: Server, name: str) -> None:
    from kinora.serve.access import Client
    from kinora.serve.errors import Invalid
    from kinora.serve.page.photos import Photos

    photos = Photos(server.data / "photos")
    alice, bob = Client(name="alice"), Client(name="bob")
    kept = photos.keep(alice, b"her photo")
    for taken in (name, kept):
        with pytest.raises(Invalid):
            photos.take(bob, taken)
    assert photos.take(alice, kept) == b"her photo"
    with pytest.raises(Invalid):
        photos.take(alice, kept)
