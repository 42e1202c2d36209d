"""Networks, sampler and pipeline against the original implementation's numbers."""

from collections.abc import Callable, Iterator

import pytest
import torch

from tests.golden import Model, model
from tests.golden_cases import CASES, Case


@pytest.fixture(scope="module")
def ours() -> Model:
    return model()


@pytest.mark.parametrize("cases", CASES, ids=lambda cases: cases.__name__)
def test_golden(ours: Model, cases: Callable[[Model], Iterator[Case]]) -> None:
    found = list(cases(ours))
    assert found
    for case in found:
        mine = case.ours.to(case.stored.dtype)
        torch.testing.assert_close(
            mine,
            case.stored,
            atol=case.atol,
            rtol=case.rtol,
            msg=lambda m, c=case: f"{c.name}: {m}",
        )
