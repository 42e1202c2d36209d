# ruff: noqa: ANN401
"""Recorded steps, with a stand-in for CUDA graphs that plays operations again on a CPU."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from kinora.config import TINY
from kinora.errors import KinoraWarning
from kinora.models import VideoUNet
from kinora.runtime import PreparedUNet, Recorded, Reusing
from kinora.types import Condition
from tests.tiny import enliven


class Graph(TorchDispatchMode):
    """What was computed within it is computed again, from and to the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, made))
        return made

    def replay(self) -> None:
        for func, args, kwargs, made in self.calls:
            if func.is_view:
                continue
            for place, value in zip(tensors(made), tensors(func(*args, **kwargs)), strict=True):
                if place is not value:
                    place.copy_(value)


def tensors(values: object) -> Iterator[Tensor]:
    return (value for value in tree_flatten(values)[0] if isinstance(value, Tensor))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A CPU that records; what torch was asked for at each recording."""
    found: list[dict[str, Any]] = []

    def recording(graph: Graph, **options: Any) -> Graph:
        found.append(options)
        return graph

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: ("a stream of", device))
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    return found


@pytest.fixture
def unet() -> PreparedUNet:
    torch.manual_seed(0)
    plain = VideoUNet(TINY.unet).eval().requires_grad_(False)
    enliven(plain)
    return PreparedUNet(plain)


def given(clips: int = 2) -> Condition:
    context = torch.randn(clips, 1, TINY.unet.context_dim)
    return Condition(torch.randn(clips, 1, 4, 8, 8), context, torch.ones(clips, 3))


def steps() -> Iterator[tuple[Tensor, Tensor]]:
    for level in (0.5, 0.0, -0.5, -1.0, -1.5, -2.0):
        yield torch.randn(1, 3, 4, 8, 8), torch.tensor([level])


def test_a_recorded_step_is_the_step(unet: PreparedUNet, asked: list[dict[str, Any]]) -> None:
    recorded, conditions = Recorded(unet), [given() for _ in range(3)]
    for x, noise in steps():
        for condition in conditions:  # more than the UNet remembers
            answers = recorded(x, noise, condition)
            torch.testing.assert_close(answers, unet(x, noise, condition))
    assert len(recorded.recordings) == len(asked) == len(conditions)


def test_steps_are_recorded_on_the_pipelines_own_device(
    unet: PreparedUNet, asked: list[dict[str, Any]]
) -> None:
    """torch's stream for it is of the first device that anything was recorded on; and another
    thread may allocate meanwhile."""
    recorded, condition = Recorded(unet), given()
    for x, noise in steps():
        recorded(x, noise, condition)
    (options,) = asked
    assert options["stream"] == ("a stream of", unet.conv_in.weight.device)
    assert options["capture_error_mode"] == "thread_local"


def test_features_are_kept_and_copied_only_where_they_are_used_again(
    unet: PreparedUNet, asked: list[dict[str, Any]]
) -> None:
    recorded, condition = Recorded(unet), given()
    for x, noise in steps():
        recorded(x, noise, condition)
    assert [recording.inner for recording in recorded.recordings.values()] == [None]

    recorded = Recorded(unet)
    first, *others = [recorded.run(x, noise, condition).inner for x, noise in steps()]
    (recording,) = recorded.recordings.values()
    places = {features.data_ptr() for features in (first, *others, recording.inner)}
    assert len(places) == len(others) + 2, "the next step must not write over them"
    assert recorded.run(*next(steps()), condition, first).inner is first


def test_inner_blocks_are_recorded_both_ways(
    unet: PreparedUNet, asked: list[dict[str, Any]]
) -> None:
    plain, recorded, condition = Reusing(unet, 2), Reusing(Recorded(unet), 2), given()
    for x, noise in steps():
        answers = recorded(x, noise, condition)
        torch.testing.assert_close(answers, plain(x, noise, condition))
    assert len(asked) == 2


def test_where_recording_fails_steps_go_on(
    unet: PreparedUNet, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(graph: Graph, **_: Any) -> Callable[[], None]:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    recorded, condition = Recorded(unet), given()
    (x, noise), *_ = steps()
    recorded(x, noise, condition)
    monkeypatch.setattr(Graph, "__enter__", fail)
    with pytest.warns(KinoraWarning, match="not recorded as CUDA graphs: operation not permitted$"):
        found = recorded(x, noise, condition)
    torch.testing.assert_close(found, unet(x, noise, condition))
    torch.testing.assert_close(recorded(x, noise, condition), found)
