"""Laws of the three protocols, over real sockets."""

import base64
import io
import json
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from kinora.clip import Clip
from kinora.config import SVD
from kinora.serve.doors.own import model_answered
from tests.serving import ended, picture, running, submitted
from tests.stub_worker import BROKEN_SEED
from tests.waiting import until


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[httpx.Client]:
    with running(tmp_path_factory.mktemp("serve")) as client:
        yield client


@pytest.fixture(scope="module")
def done(client: httpx.Client) -> dict[str, Any]:
    return dict(ended(client, submitted(client, seed=7, steps=5)["id"]))


# Its makers have taken the service away; programs written for it are still there.
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

# Our own.


def test_a_job_becomes_a_clip_of_its_request(client: httpx.Client, done: dict[str, Any]) -> None:
    assert done["state"] == "succeeded"
    assert done["asked"] == {"seed": 7, "steps": 5}
    assert done["progress"]["fraction"] == 1.0
    assert done["created"] <= done["started"] <= done["finished"] < done["expires"]
    assert done["result"]["recipe"]["request"]["seed"] == 7
    assert (done["result"]["width"], done["result"]["height"]) == (64, 32)
    assert client.get(done["links"]["self"]).json() == done


@pytest.mark.parametrize(
    ("suffix", "kind"), [("mp4", "video/mp4"), ("webm", "video/webm"), ("gif", "image/gif")]
)
def test_a_clip_comes_in_each_format(
    client: httpx.Client, done: dict[str, Any], suffix: str, kind: str, tmp_path: Path
) -> None:
    answer = client.get(f"{done['links']['self']}/clip.{suffix}")
    assert answer.headers["content-type"] == kind
    file = tmp_path / f"clip.{suffix}"
    file.write_bytes(answer.content)
    clip = Clip.open(file)
    assert len(clip.frames) == done["result"]["frames"]
    assert abs(int(clip.frames.mean()) - 7) < 8  # the stub's colour is its seed
    assert clip.recipe["request"]["seed"] == 7


def test_parts_of_a_clip_make_up_the_whole(client: httpx.Client, done: dict[str, Any]) -> None:
    link = done["links"]["clip"]
    whole = client.get(link).content
    cut = len(whole) // 3
    parts = [
        client.get(link, headers={"range": f"bytes={spec}"})
        for spec in (f"0-{cut - 1}", f"{cut}-{2 * cut}", f"-{len(whole) - 2 * cut - 1}")
    ]
    assert [part.status_code for part in parts] == [206] * 3
    assert b"".join(part.content for part in parts) == whole
    assert client.get(link, headers={"range": f"bytes={len(whole)}-"}).status_code == 416


@pytest.mark.parametrize("name", ["poster", "spritesheet"])
def test_pictures_of_a_clip_are_jpegs(
    client: httpx.Client, done: dict[str, Any], name: str
) -> None:
    answer = client.get(done["links"][name])
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).format == "JPEG"


def test_events_tell_a_job_until_it_has_ended(client: httpx.Client) -> None:
    job = submitted(client, seed=1, steps=60)
    told: list[dict[str, Any]] = []
    with client.stream("GET", job["links"]["events"]) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line.removeprefix("data: ")))
    assert told[-1]["state"] == "succeeded"
    steps = [job["progress"]["step"] for job in told]
    assert steps == sorted(steps)
    assert len(told) > 2
    assert any(job["progress"]["seconds_left"] is not None for job in told)
    assert any("preview" in job["links"] for job in told)


def test_the_same_key_gives_the_same_job(client: httpx.Client) -> None:
    def ask(seed: int) -> httpx.Response:
        return client.post(
            "/api/v1/jobs",
            files={"photo": picture()},
            data={"seed": str(seed)},
            headers={"idempotency-key": "one"},
        )

    first, again, other = ask(1), ask(1), ask(2)
    assert first.json()["id"] == again.json()["id"]
    assert other.status_code == 409


def test_a_running_job_is_cancelled_within_a_step(client: httpx.Client) -> None:
    job = submitted(client, steps=100, frames=50)
    until(lambda: client.get(job["links"]["self"]).json()["state"] != "queued")
    assert client.post(f"{job['links']['self']}/cancel").status_code == 200
    assert ended(client, job["id"])["state"] == "cancelled"
    assert client.post(f"{job['links']['self']}/cancel").status_code == 200
    assert client.get(f"{job['links']['self']}/clip.mp4").status_code == 404


def test_a_deleted_job_is_gone_with_its_files(client: httpx.Client) -> None:
    job = ended(client, submitted(client, seed=2)["id"])
    assert client.delete(job["links"]["self"]).status_code == 204
    for link in job["links"].values():
        assert client.get(link).status_code == 404
    assert client.delete(job["links"]["self"]).status_code == 404


def test_a_running_job_can_be_deleted(client: httpx.Client) -> None:
    job = submitted(client, steps=100)
    assert client.delete(job["links"]["self"]).status_code == 204
    assert client.get(job["links"]["self"]).status_code == 404


def test_a_failure_is_told(client: httpx.Client) -> None:
    job = ended(client, submitted(client, seed=BROKEN_SEED)["id"])
    assert job["state"] == "failed"
    assert job["error"] == {"code": "failed", "message": "it broke, as it was asked to"}


def test_lists_go_page_by_page(client: httpx.Client) -> None:
    made = [submitted(client, seed=seed)["id"] for seed in range(5)]
    seen: list[str] = []
    after: str | None = None
    while len(seen) < 5:
        query = {"limit": 2} if after is None else {"limit": 2, "after": after}
        page = client.get("/api/v1/jobs", params=query).json()
        seen += [job["id"] for job in page["jobs"]]
        after = page["after"]
    assert seen[:5] == made[::-1]


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"size": "100x100x100"}, 422, "width and height"),
        ({"motion": "300"}, 422, "motion 300"),
        ({"motion": "much"}, 422, "motion"),
        ({"guidance": "1:2:3"}, 422, "two numbers"),
        ({"frames": "200"}, 413, "frames 200: at most"),
        ({"size": "4000x64"}, 413, "size 4000: at most"),
        ({"steps": "900"}, 413, "steps 900: at most"),
        ({"model": "other"}, 422, "There are tiny"),
        ({"sampler": "best"}, 422, "must be one of euler"),
    ],
)
def test_wrong_values_are_named(
    client: httpx.Client, fields: dict[str, str], status: int, words: str
) -> None:
    answer = client.post("/api/v1/jobs", files={"photo": picture()}, data=fields)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "photo", [b"", b"hello", picture()[:60], picture("JPEG")[:200], b"%PDF-1.4" + bytes(500)]
)
def test_what_is_no_photo_is_refused(client: httpx.Client, photo: bytes) -> None:
    answer = client.post("/api/v1/jobs", files={"photo": ("../../etc/passwd", photo)})
    assert answer.status_code == 422
    assert "photo" in answer.json()["error"]["message"]


def test_what_is_no_field_is_refused_by_name(client: httpx.Client) -> None:
    answer = client.post("/api/v1/jobs", files={"photo": picture()}, data={"motoin": "60"})
    assert answer.status_code == 422
    assert "motoin" in answer.json()["error"]["message"]
    answer = client.post("/api/v1/jobs", json={"photo": "here"})
    assert answer.status_code == 422
    assert "multipart" in answer.json()["error"]["message"]


def test_the_document_tells_what_is_refused_and_how(client: httpx.Client) -> None:
    paths = client.get("/api/openapi.json").json()["paths"]
    forms = {"/api/": "OwnRefusal", "/v2beta/": "StabilityRefusal", "/v1/": "OpenAIRefusal"}
    for path, operations in paths.items():
        form = next((form for prefix, form in forms.items() if path.startswith(prefix)), None)
        for operation in operations.values() if form else ():
            (told,) = operation["responses"]["422"]["content"].values()
            assert told["schema"]["$ref"].endswith(f"/{form}")
            assert operation["security"]
    assert paths["/v1/videos"]["post"]["requestBody"]["content"].keys() == {
        "multipart/form-data",
        "application/json",
    }


def test_the_document_tells_how_many_steps_a_consistency_model_takes(client: httpx.Client) -> None:
    document = client.get("/api/openapi.json").json()
    name = document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"][
        "multipart/form-data"
    ]["schema"]["$ref"].rpartition("/")[2]
    steps = document["components"]["schemas"][name]["properties"]["steps"]
    assert "consistency sampler 1-20, 4 when left out" in steps["description"]


def test_too_many_steps_for_a_consistency_model_are_refused(client: httpx.Client) -> None:
    asked = {"sampler": "consistency", "steps": "30"}
    answer = client.post("/api/v1/jobs", data=asked, files={"photo": picture()})
    assert answer.status_code == 422
    assert "1 to 20 steps" in answer.json()["error"]["message"]


def test_models_tell_what_they_make(client: httpx.Client) -> None:
    (unknown,) = client.get("/api/v1/models").json()
    assert unknown.items() >= {"name": "tiny", "size": None}.items()
    known = model_answered("svd", 2)
    assert (known.workers, known.size, known.steps) == (2, (SVD.width, SVD.height), SVD.steps)


def test_a_photo_with_too_many_pixels_is_refused_by_its_header(client: httpx.Client) -> None:
    file = io.BytesIO()
    Image.new("1", (9000, 7500)).save(file, "PNG")
    answer = client.post("/api/v1/jobs", files={"photo": file.getvalue()})
    assert answer.status_code == 413
    assert "9000x7500" in answer.json()["error"]["message"]


def test_health_and_metrics(client: httpx.Client, done: dict[str, Any]) -> None:
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").status_code == 200
    text = client.get("/metrics").text
    assert 'kinora_jobs{state="succeeded"}' in text
    assert 'kinora_workers{model="tiny"} 1.0' in text
    assert 'route="/api/v1/jobs/{id}"' in text
    assert done["id"] not in text


def test_the_document_names_all_routes(client: httpx.Client) -> None:
    paths = client.get("/api/openapi.json").json()["paths"]
    assert {"/api/v1/jobs", "/v1/videos", "/v2beta/image-to-video", "/healthz"} <= set(paths)


# Stability's.


def stability(client: httpx.Client, **fields: str) -> httpx.Response:
    return client.post("/v2beta/image-to-video", files={"image": picture("JPEG")}, data=fields)


def test_a_stability_program_gets_its_video(client: httpx.Client) -> None:
    answer = stability(client, seed="11", cfg_scale="2.5", motion_bucket_id="40")
    assert answer.status_code == 200
    (id,) = answer.json().values()
    assert len(id) == 64
    link = f"/v2beta/image-to-video/result/{id}"
    while (answer := client.get(link, headers={"accept": "video/*"})).status_code == 202:
        assert answer.json() == {"id": id, "status": "in-progress"}
        time.sleep(0.05)
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["seed"] == "11"
    told = client.get(link, headers={"accept": "application/json"}).json()
    assert base64.b64decode(told["video"]) == answer.content
    assert (told["finish_reason"], told["seed"]) == ("SUCCESS", 11)
    job = client.get(f"/api/v1/jobs/{id}").json()
    assert job["asked"] == {"seed": 11, "guidance": [1.0, 2.5], "motion": 40}
    assert job["expires"] - job["finished"] == pytest.approx(24 * 3600)


def test_seed_0_is_drawn(client: httpx.Client) -> None:
    seeds = set[int]()
    for _ in range(2):
        id = stability(client, seed="0").json()["id"]
        seeds.add(client.get(f"/api/v1/jobs/{id}").json()["asked"]["seed"])
    assert len(seeds) == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cfg_scale": "11"}, "cfg_scale"),
        ({"motion_bucket_id": "0"}, "motion_bucket_id"),
        ({"seed": "-1"}, "seed"),
    ],
)
def test_stability_errors_have_its_form(
    client: httpx.Client, fields: dict[str, str], words: str
) -> None:
    answer = stability(client, **fields)
    assert answer.status_code == 422
    assert set(answer.json()) == {"id", "name", "errors"}
    assert words in answer.json()["errors"][0]


def test_stability_takes_jpeg_and_png_only(client: httpx.Client) -> None:
    answer = client.post("/v2beta/image-to-video", files={"image": picture("WEBP")})
    assert answer.status_code == 422
    assert "JPEG or PNG" in answer.json()["errors"][0]


def test_a_failed_generation_is_an_error(client: httpx.Client) -> None:
    id = stability(client, seed=str(BROKEN_SEED)).json()["id"]
    ended(client, id)
    answer = client.get(f"/v2beta/image-to-video/result/{id}")
    assert answer.status_code == 500
    assert answer.json()["errors"] == ["it broke, as it was asked to"]


def test_a_job_of_another_door_is_no_generation(client: httpx.Client, done: dict[str, Any]) -> None:
    answer = client.get(f"/v2beta/image-to-video/result/{done['id']}")
    assert answer.status_code == 404
    assert answer.json()["name"] == "not_found"


# OpenAI's, with its own client.


@pytest.fixture(scope="module")
def program(client: httpx.Client) -> Generator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=f"{client.base_url}/v1", max_retries=0) as program:
        yield program


def test_an_openai_program_gets_its_video(program: openai.OpenAI) -> None:
    video = program.videos.create_and_poll(
        prompt="a rocket rises",
        model="tiny",  # pyright: ignore[reportArgumentType]
        input_reference=("rocket.png", picture(), "image/png"),
        size="1280x720",
        seconds="4",
        poll_interval_ms=100,
    )
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    assert (video.object, video.prompt) == ("video", "a rocket rises")
    assert video.completed_at is not None
    assert video.expires_at is not None
    assert video.created_at <= video.completed_at < video.expires_at
    content = program.videos.download_content(video.id).read()
    assert content[4:8] == b"ftyp"
    for variant in ("thumbnail", "spritesheet"):
        still = program.videos.download_content(video.id, variant=variant).read()
        assert Image.open(io.BytesIO(still)).format == "JPEG"
    assert video.id in [found.id for found in program.videos.list()]
    assert program.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        program.videos.retrieve(video.id)


def data_uri() -> str:
    return f"data:image/png;base64,{base64.b64encode(picture()).decode()}"


def test_a_picture_may_come_inside_a_url(client: httpx.Client) -> None:
    form = client.post("/v1/videos", data={"input_reference[image_url]": data_uri()})
    json_body = {"input_reference": {"image_url": data_uri()}, "seconds": 8}
    for answer in (form, client.post("/v1/videos", json=json_body)):
        assert answer.status_code == 200, answer.text
        assert answer.json()["object"] == "video"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/a.png", "file:///etc/passwd", "data:image/png;base64,§§", ["a"]]
)
def test_no_url_is_fetched(client: httpx.Client, url: object) -> None:
    answer = client.post("/v1/videos", json={"input_reference": {"image_url": url}})
    assert answer.status_code == 422
    assert "input_reference" in answer.json()["error"]["message"]


def test_openai_lists_go_page_by_page(program: openai.OpenAI) -> None:
    made = [
        program.videos.create(prompt=str(n), input_reference=("a.png", picture())).id
        for n in range(3)
    ]
    newest = [video.id for video in program.videos.list(limit=2)][:3]  # pages follow by themselves
    assert newest == made[::-1]
    page = program.videos.list(limit=1, order="asc")
    assert page.has_more


def test_a_remix_is_the_same_photo_and_settings_with_a_new_seed(
    client: httpx.Client, program: openai.OpenAI
) -> None:
    first = program.videos.create(prompt="one", input_reference=("a.png", picture()), seconds="8")
    remix = program.videos.remix(first.id, prompt="two")
    assert (remix.remixed_from_video_id, remix.prompt) == (first.id, "two")
    before, after = (client.get(f"/api/v1/jobs/{id}").json() for id in (first.id, remix.id))
    assert after["asked"] | {"seed": 0} == before["asked"] | {"seed": 0}
    assert after["asked"]["seed"] != before["asked"]["seed"]
    assert "new seed" in client.get(f"/v1/videos/{remix.id}").json()["note"]
    with pytest.raises(openai.NotFoundError):
        program.videos.remix("none", prompt="")


def test_openai_programs_find_the_models(program: openai.OpenAI) -> None:
    assert [model.id for model in program.models.list()] == ["tiny"]
    assert program.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        program.models.retrieve("sora-2")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("verb", ["extend", "characters/1", "remix/again"])
def test_what_else_openai_has_is_not_there(client: httpx.Client, method: str, verb: str) -> None:
    answer = client.request(method, f"/v1/videos/{'0' * 64}/{verb}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_a_page_of_jobs_is_bounded_by_its_size(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        client.post("/v1/videos", data={"prompt": "a" * 3000}, files={"input_reference": picture()})
    monkeypatch.setattr("kinora.serve.jobs.LARGEST_PAGE", 8000)
    page = client.get("/api/v1/jobs?limit=50").json()
    assert len(page["jobs"]) == 2
    rest = client.get(f"/api/v1/jobs?limit=50&after={page['after']}").json()
    assert rest["jobs"]
    monkeypatch.setattr("kinora.serve.jobs.LARGEST_PAGE", 1)
    seen, after = list[str](), ""
    while after is not None:
        page = client.get("/api/v1/jobs" + (f"?after={after}" if after else "")).json()
        seen, after = seen + [job["id"] for job in page["jobs"]], page["after"]
    assert len(seen) == len(set(seen)) > 4


def test_openai_errors_have_its_form(program: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as error:
        program.videos.create(prompt="", model="sora-2", input_reference=("a.png", picture()))
    assert error.value.code == "invalid"
    assert "There are tiny" in str(error.value)
