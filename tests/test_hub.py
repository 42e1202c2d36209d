"""Models are found in the hub's cache or fetched, and every way that fails says what to do."""

from pathlib import Path
from typing import Any

import httpx2
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from kinora.config import SVD_XT
from kinora.errors import CheckpointError
from kinora.weights import convert, describe, hub, known_models, load_networks, locate
from kinora.weights.hub import HUB_IDS, Hub, KnownModel
from tests.checkpoints import SMALL, write_own

CPU = torch.device("cpu")
REPO = "someone/small-video"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co"))


class FakeHub:
    """A stand-in for hf_hub_download: a folder of files, and perhaps a failure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failure: Exception | None = None
        self.asked: list[str] = []
        self.told: list[dict[str, object]] = []

    def download(self, repo_id: str, filename: str, **how: object) -> str:
        self.asked.append(filename)
        self.told.append(how)
        if self.failure is not None:
            raise self.failure
        if not (self.folder / filename).is_file():
            raise errors.RemoteEntryNotFoundError("404", response=response(404))
        return str(self.folder / filename)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder where the hub's cache would have it."""
    root = tmp_path_factory.mktemp("hub")
    write_own(root / "a.safetensors", SMALL)
    path = root / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT
    convert(root / "a.safetensors", path, to="diffusers")
    (path.parents[1] / "refs").mkdir()
    (path.parents[1] / "refs" / "main").write_text(COMMIT)
    return path


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, folder: Path) -> FakeHub:
    found = FakeHub(folder)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", found.download)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    return found


def test_a_hub_id_is_loaded_like_its_folder(fake: FakeHub, folder: Path) -> None:
    loaded = load_networks(REPO, device=CPU, dtype=torch.float32)
    assert loaded.config == SMALL
    assert loaded.fingerprint == describe(folder).fingerprint


def test_only_needed_files_are_fetched(fake: FakeHub) -> None:
    locate(REPO, half=False)
    assert "feature_extractor/preprocessor_config.json" not in fake.asked
    assert not any("fp16" in name for name in fake.asked)


def test_half_precision_asks_for_fp16_files_first_and_takes_the_full_ones_else(
    fake: FakeHub,
) -> None:
    locate(REPO, half=True)
    names = [name for name in fake.asked if name.startswith("unet/diff")]
    assert names[0] == "unet/diffusion_pytorch_model.fp16.safetensors"
    assert names[-1] == "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("alias", ["svd", "svd-xt", "SVD_XT", "svd-xt-1.1"])
def test_an_alias_names_repository_and_variant(
    monkeypatch: pytest.MonkeyPatch, fake: FakeHub, alias: str
) -> None:
    asked: list[str] = []

    def download(repo_id: str, filename: str, **how: object) -> str:
        asked.append(repo_id)
        return fake.download(repo_id, filename, **how)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    name = alias.lower().replace("_", "-")
    assert locate(alias, half=True).variant == name
    assert set(asked) == {HUB_IDS[name]}


def test_the_hub_is_asked_as_told_and_for_one_commit(fake: FakeHub, tmp_path: Path) -> None:
    locate(REPO, half=False, hub=Hub("a-branch", tmp_path, "a-token"))
    first, *others = fake.told
    assert first == {
        "revision": "a-branch",
        "cache_dir": tmp_path,
        "token": "a-token",
        "local_files_only": False,
    }
    assert {str(how["revision"]) for how in others} == {COMMIT}
    assert {how["token"] for how in others} == {"a-token"}


FAILURES: dict[str, tuple[Exception, str]] = {
    "gated": (
        errors.GatedRepoError("gated", response=response(403)),
        r"is gated.*https://huggingface\.co/stabilityai.*accept it.*hf auth login",
    ),
    "unknown": (
        errors.RepositoryNotFoundError("none", response=response(404)),
        r"no model stabilityai/.*spelling.*hf auth login",
    ),
    "unreachable": (errors.LocalEntryNotFoundError("none"), r"not in the cache.*check the network"),
    "server error": (
        errors.HfHubHTTPError("503 unavailable", response=response(503)),
        r"can't be downloaded: 503 unavailable.*again",
    ),
    "broken connection": (httpx2.ReadTimeout("timed out"), r"can't be downloaded: timed out"),
    "full disk": (OSError(28, "No space left on device"), r"No space left on device"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_each_failure_says_what_to_do(fake: FakeHub, kind: str) -> None:
    fake.failure, message = FAILURES[kind]
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        locate("svd-xt-1.1", half=False)


def test_a_licence_that_the_account_has_not_accepted_is_told_apart(
    monkeypatch: pytest.MonkeyPatch, fake: FakeHub
) -> None:
    fake.failure = FAILURES["gated"][0]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    with pytest.raises(CheckpointError, match="your account has not been given access"):
        locate("svd-xt-1.1", half=False)


def test_a_repository_without_a_pipeline_is_refused(fake: FakeHub, tmp_path: Path) -> None:
    fake.folder = tmp_path
    with pytest.raises(CheckpointError, match=r"no diffusers model: it has no model_index\.json"):
        locate(REPO, half=False)


def test_a_repository_without_safetensors_is_refused(
    fake: FakeHub, tmp_path: Path, folder: Path
) -> None:
    fake.folder = tmp_path
    for file in folder.rglob("*.json"):
        (tmp_path / file.relative_to(folder)).parent.mkdir(exist_ok=True)
        (tmp_path / file.relative_to(folder)).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="no safetensors weights of the unet"):
        locate(REPO, half=False)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """The real huggingface_hub, offline, with a cache that holds one model."""
    cache = folder.parents[2]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    download: Any = huggingface_hub.hf_hub_download
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda repo, name, **how: download(
            repo, name, **how | {"cache_dir": cache, "local_files_only": True}
        ),
    )
    return cache


@pytest.mark.parametrize("half", [False, True])
def test_offline_the_cache_is_enough(offline: Path, folder: Path, half: bool) -> None:
    assert locate(REPO, half=half).path == folder


def test_offline_and_not_cached_is_said(offline: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not in the cache.*HF_HUB_OFFLINE is set"):
        locate("svd", half=True)


def test_a_cache_elsewhere_is_used_without_a_network(folder: Path, tmp_path: Path) -> None:
    here = Hub(cache_dir=folder.parents[2], local_files_only=True)
    assert locate(REPO, half=False, hub=here).path == folder
    with pytest.raises(CheckpointError, match=f"{tmp_path}.*local_files_only is set"):
        locate(REPO, half=False, hub=here._replace(cache_dir=tmp_path))


def test_known_models_tell_what_needs_no_download(
    monkeypatch: pytest.MonkeyPatch, offline: Path
) -> None:
    cached = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repo, name: cached(repo, name, cache_dir=offline),
    )
    monkeypatch.setattr(hub, "HUB_IDS", {"svd-xt": REPO, "svd": HUB_IDS["svd"]})
    bundled, *others = known_models()
    assert bundled.source == "bundled"
    assert others == [
        KnownModel("svd-xt", REPO, SVD_XT, True),
        KnownModel("svd", HUB_IDS["svd"], others[1].config, False),
    ]
    assert "Stability" in others[1].config.licence


@pytest.mark.parametrize("source", ["svd-xl", "./nowhere", "a/b/c", "photo.safetensors"])
def test_what_names_nothing_is_answered_with_what_there_is(fake: FakeHub, source: str) -> None:
    with pytest.raises(CheckpointError, match=r"no such file or folder.*nano, svd, svd-xt"):
        locate(source, half=False)
    assert not fake.asked
