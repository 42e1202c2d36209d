# ruff: noqa: ANN401
"""Which kernel computes attention, with stand-ins for those of a GPU."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend

from kinora.errors import KinoraWarning
from kinora.runtime import attention
from kinora.runtime.attention import Kind, register_attention

FLASH, CUDNN, EFFICIENT = attention.CANDIDATES
MATH = SDPBackend.MATH
SPACE, TIME = (1, 64, 2, 8), (9, 3, 2, 8)


class Kernels:
    """Of a GPU where cuDNN is quickest at many tokens and slowest at few."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.backend: SDPBackend | None = None
        self.used: list[SDPBackend] = []
        self.capturing = False
        self.failing: dict[SDPBackend, Exception] = {}

    @contextmanager
    def choose(self, backend: SDPBackend) -> Generator[None, None, None]:
        self.backend = backend
        yield
        self.backend = None

    def scaled_dot_product_attention(self, q: Any, k: Any, v: Any) -> Any:
        assert self.backend is not None
        if self.backend in self.failing:
            raise self.failing[self.backend]
        self.used.append(self.backend)
        many, few = {FLASH: (2, 1), CUDNN: (1, 3), EFFICIENT: (3, 2), MATH: (9, 9)}[self.backend]
        self.clock += many if q.shape[2] > 10 else few
        return F.scaled_dot_product_attention(q, k, v)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    found = Kernels()
    monkeypatch.setattr(attention, "RANKS", {})
    monkeypatch.setattr(attention, "F", found)
    monkeypatch.setattr(attention, "sdpa_kernel", found.choose)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: found.capturing)
    monkeypatch.setattr(attention, "_finish", lambda device: None)
    monkeypatch.setattr(attention.time, "perf_counter", lambda: found.clock)
    return found


def sample(shape: tuple[int, ...], dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(3)]


def ran(kernels: Kernels, shape: tuple[int, ...], **options: Any) -> SDPBackend:
    """The kernel that gave the result, which is right."""
    q, k, v = sample(shape, **options)
    found = attention._attend(q, k, v)
    torch.testing.assert_close(found, plain(q, k, v))
    return kernels.used[-1]


def plain(*given: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in given)).transpose(1, 2)


def test_attention_between_pixels_and_between_frames_has_kernels_of_its_own(
    kernels: Kernels,
) -> None:
    assert (ran(kernels, SPACE), ran(kernels, TIME)) == (CUDNN, FLASH)
    tried = len(kernels.used)
    assert (ran(kernels, SPACE), ran(kernels, TIME)) == (CUDNN, FLASH)
    assert len(kernels.used) == tried + 2, "once for each size"
    assert ran(kernels, SPACE, dtype=torch.float32) == EFFICIENT


def test_a_kernel_that_fails_is_left_to_the_next_one_and_never_tried_again(
    kernels: Kernels,
) -> None:
    assert (ran(kernels, SPACE), ran(kernels, TIME)) == (CUDNN, FLASH)
    kernels.failing[CUDNN] = RuntimeError("No execution plans support the graph.\nand more")
    with pytest.warns(KinoraWarning, match=r"64 tokens: .*CUDNN.* \(No execution plans support"):
        assert ran(kernels, SPACE) == FLASH
    kernels.failing.clear()
    assert ran(kernels, SPACE) == FLASH
    assert ran(kernels, TIME) == FLASH
    assert attention.RANKS[Kind(1, *SPACE[1:], torch.bfloat16, torch.device("cpu"))][-1] == MATH


def test_what_no_kernel_can_do_is_an_error(kernels: Kernels) -> None:
    kernels.failing = {b: RuntimeError("no") for b in (FLASH, CUDNN, EFFICIENT)}
    assert ran(kernels, SPACE) == MATH
    kernels.failing[MATH] = RuntimeError("not this one either")
    with pytest.raises(RuntimeError, match="not this one either"):
        ran(kernels, SPACE)


def test_too_little_memory_is_no_fault_of_a_kernel(kernels: Kernels) -> None:
    assert ran(kernels, SPACE) == CUDNN
    kernels.failing[CUDNN] = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        ran(kernels, SPACE)
    kernels.failing.clear()
    assert ran(kernels, SPACE) == CUDNN


def test_nothing_is_tried_while_a_step_is_recorded(kernels: Kernels) -> None:
    kernels.capturing = True
    assert ran(kernels, SPACE) == FLASH
    assert kernels.used == [FLASH]
    kernels.capturing = False
    assert ran(kernels, SPACE) == CUDNN


def test_trying_kernels_draws_no_random_numbers(kernels: Kernels) -> None:
    torch.manual_seed(0)
    expected = torch.randn(3)
    torch.manual_seed(0)
    ran(kernels, SPACE)
    assert torch.equal(torch.randn(3), expected)


def test_compiled_blocks_choose_as_they_run(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph has one node for all kernels, so that one that fails may be left out there too."""
    register_attention()
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    given = sample(SPACE)
    script = partial(torch.compile, fullgraph=True, backend=keep)
    found = script(lambda q, k, v: torch.ops.kinora.attend(q, k, v) + 1)(*given)
    torch.testing.assert_close(found, plain(*given) + 1)
    assert "kinora.attend" in graphs[0].code
    torch.library.opcheck(torch.ops.kinora.attend.default, tuple(given))
