"""Where a model lies: bundled, on disk, in the hub's cache, or on the hub."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from kinora.arguments import as_path, expect
from kinora.config import NANO, ModelConfig
from kinora.errors import CheckpointError
from kinora.weights.diffusers import COMPONENTS
from kinora.weights.folder import CONFIG_FILES, index_names, shard_names, weight_names
from kinora.weights.variants import PUBLISHED

__all__ = ["DEFAULT_HUB", "HUB_IDS", "Found", "Hub", "KnownModel", "known_models", "locate"]

HUB_IDS: Final[Mapping[str, str]] = {
    "svd": "stabilityai/stable-video-diffusion-img2vid",
    "svd-xt": "stabilityai/stable-video-diffusion-img2vid-xt",
    "svd-xt-1.1": "stabilityai/stable-video-diffusion-img2vid-xt-1-1",
}
"""Alias → repository on the hub."""

BUNDLED = Path(__file__).parents[1] / "assets" / "nano.safetensors"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Found(NamedTuple):
    """A checkpoint on disk, and the published model that its source named, if it named one."""

    path: Path
    variant: str | None


class Hub(NamedTuple):
    """How the hub is asked; what is left out follows its environment variables and login."""

    revision: str | None = None
    """Branch, tag or commit; the main branch when left out."""
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    """Take what is in the cache, and ask no network."""


DEFAULT_HUB: Final = Hub()


class KnownModel(NamedTuple):
    """A model that has an alias."""

    alias: str
    source: str
    """"bundled", or its id on the hub."""
    config: ModelConfig
    present: bool
    """Whether it can be loaded without a download."""


def known_models() -> list[KnownModel]:
    """All models with an alias, the bundled one first; asks the disk only, never the network."""
    models = [KnownModel(NANO.name, "bundled", NANO, BUNDLED.is_file())]
    for alias, repo in HUB_IDS.items():
        models.append(KnownModel(alias, repo, PUBLISHED[alias], _is_cached(repo)))
    return models


def locate(source: str | Path, *, half: bool, hub: Hub = DEFAULT_HUB) -> Found:
    """Turn an alias, a hub id, a folder or a file into a path, downloading where that is needed.

    half: prefer fp16 files where the hub has them, which are half the download.
    hub: how to ask for what isn't on disk.
    Raises CheckpointError when there is nothing of that name, or it can't be downloaded.
    """
    expect("hub", hub, Hub, "a kinora.weights.Hub")
    if isinstance(source, str):
        alias = source.lower().replace("_", "-")
        if alias == NANO.name:
            if not BUNDLED.is_file():
                raise CheckpointError(f"the bundled model is missing: {BUNDLED}; install again")
            return Found(BUNDLED, None)
        if alias in HUB_IDS:
            return Found(_fetch(HUB_IDS[alias], half=half, hub=hub), alias)
    path = as_path("source", source)
    if _exists(path):
        return Found(path, None)
    if isinstance(source, str) and HUB_ID.fullmatch(source) and path.suffix != ".safetensors":
        variants = {repo: alias for alias, repo in HUB_IDS.items()}
        return Found(_fetch(source, half=half, hub=hub), variants.get(source))
    raise CheckpointError(
        f"{source}: no such file or folder, and no known model. Known are "
        f"{', '.join((NANO.name, *HUB_IDS))}; a hub id looks like {HUB_IDS['svd']}"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _fetch(repo: str, *, half: bool, hub: Hub) -> Path:
    """Download what is not in the cache of a diffusers repository yet; its folder there."""
    first = _download(repo, CONFIG_FILES[0], hub, start=True)
    if first is None:
        raise CheckpointError(
            f"{repo} on the hub is no diffusers model: it has no {CONFIG_FILES[0]}. If it holds a "
            "single .safetensors file, download that and name it"
        )
    folder = first.parent
    hub = hub._replace(revision=folder.name)  # one commit, even if the branch moves on meanwhile
    for name in CONFIG_FILES[1:]:
        if _download(repo, name, hub) is None:
            raise CheckpointError(f"{repo} on the hub is incomplete: it has no {name}")
    for component in COMPONENTS:
        if not any(_fetch_weights(repo, n, hub) for n in _weight_files(component, half=half)):
            raise CheckpointError(
                f"{repo}: no safetensors weights of the {component} are on the hub, or, without "
                f"a network, in the cache ({folder})"
            )
    return folder


def _weight_files(component: str, *, half: bool) -> Iterator[str]:
    """All files that may hold or name a component's weights, the preferred number format first."""
    names = [*weight_names(component, half=half), *index_names(component, half=half)]
    yield from (name for name in names if (".fp16" in name) == half)
    yield from (name for name in names if (".fp16" in name) != half)


def _fetch_weights(repo: str, name: str, hub: Hub) -> bool:
    path = _download(repo, name, hub)
    if path is None or path.suffix != ".json":
        return path is not None
    folder = name.rpartition("/")[0]
    return all(_download(repo, f"{folder}/{shard}", hub) for shard in shard_names(path))


def _download(repo: str, name: str, hub: Hub, *, start: bool = False) -> Path | None:
    """One file of a repository; None when the repository (or the cache, offline) lacks it.

    start: it is the first file, without which nothing is known of the repository.
    """
    # Imported here: a bundled or local model needs none of it.
    from huggingface_hub import (
        errors,
        hf_hub_download,  # pyright: ignore[reportUnknownVariableType]  (its progress bar's type)
    )

    try:
        path = hf_hub_download(
            repo,
            name,
            revision=hub.revision,
            cache_dir=hub.cache_dir,
            token=hub.token,
            local_files_only=hub.local_files_only,
        )
        return Path(path)
    except errors.LocalEntryNotFoundError as error:
        if not start:
            return None
        raise CheckpointError(_unreachable(repo, hub)) from error
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError as error:
        raise CheckpointError(_gated(repo)) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} on the hub has no revision {hub.revision}") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no model {repo} on the hub, or it is private and you are not logged in: "
            "check the spelling, or run `hf auth login`"
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{repo} can't be a hub id: {error}") from error
    except Exception as error:  # whatever the hub's HTTP library raises
        raise CheckpointError(
            f"{repo}/{name} can't be downloaded: {error}. What was loaded so far is kept; run the "
            "same command again"
        ) from error


def _unreachable(repo: str, hub: Hub) -> str:
    from huggingface_hub import constants

    if hub.local_files_only:
        reason = "local_files_only is set, so it can't be downloaded; leave it out"
    elif constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set, so it can't be downloaded; unset it"
    else:
        reason = "the hub can't be reached; check the network"
    cache = hub.cache_dir or constants.HF_HUB_CACHE
    return (
        f"{repo} is not in the cache ({cache}), and {reason}, or copy the model "
        "here from another machine and name its folder. The bundled model, nano, needs no download"
    )


def _gated(repo: str) -> str:
    from huggingface_hub import get_token

    page = f"https://huggingface.co/{repo}"
    if get_token() is None:
        return (
            f"{repo} is gated: its licence must be accepted first. Log in at {page} and accept it, "
            "make a token at https://huggingface.co/settings/tokens, and run `hf auth login` "
            "(or set HF_TOKEN)"
        )
    return (
        f"{repo} is gated, and your account has not been given access: accept its licence at "
        f"{page}, then try again (the token must be of the same account)"
    )


def _is_cached(repo: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> bool:
        return isinstance(try_to_load_from_cache(repo, name), str)

    return all(map(cached, CONFIG_FILES)) and all(
        any(map(cached, _weight_files(component, half=True))) for component in COMPONENTS
    )
