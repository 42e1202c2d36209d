"""How far Kinora is from the original implementation: the first table of docs/parity.md.

    python -m benchmarks.golden

Reads the reference numbers where the tests do: ../shared/golden, or the folder in KINORA_GOLDEN.
"""

from tests.golden import model
from tests.golden_cases import CASES
from torch import Tensor


def main() -> None:
    ours = model()
    print("| compared | values | largest difference | rms difference | rms of the reference |")
    print("|---|---|---|---|---|")
    for case in (case for cases in CASES for case in cases(ours)):
        stored = case.stored.double()
        difference = case.ours.double() - stored
        figures = difference.abs().max(), rms(difference), rms(stored)
        values = " | ".join(f"{float(figure):.1e}" for figure in figures)
        print(f"| {case.name} | {stored.numel()} | {values} |")


def rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


if __name__ == "__main__":
    main()
