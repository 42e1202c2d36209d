"""Round trips of conversion at full size: whether every byte returns, and the memory it takes.

Writes checkpoints of random numbers to a temporary folder (three at a time, 5 GB each in float16),
converts each to another format and back in fresh processes, and compares the files.

    python -m benchmarks.converting --model svd-xt --stored float16
"""

import argparse
import filecmp
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.loading import MODELS, dtype_of, write
from benchmarks.resident import resident
from kinora.weights import convert

TRIPS = (("sgm", "kinora"), ("diffusers", "kinora"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(MODELS), default="svd-xt")
    parser.add_argument("--stored", default="float16", help="number format of the files")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        source, target, to = arguments.child
        measure(Path(source), Path(target), to)
        return
    for start, middle in TRIPS:
        with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="kinora-trip-") as name:
            folder = Path(name)
            first = write(folder, MODELS[arguments.model], start, dtype_of(arguments.stored))
            between, back = folder / "between", folder / f"back{first.suffix}"
            for source, target, to in ((first, between, middle), (between, back, start)):
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.converting",
                    "--child",
                    str(source),
                    str(target),
                    to,
                ]
                result = subprocess.run(command, check=True, capture_output=True, text=True)
                seen = json.loads(result.stdout)
                print(
                    f"| {arguments.model} {arguments.stored} | {start} → {middle} → {start}: "
                    f"to {to} | {seen['peak'] / 2**30:.2f} | {seen['seconds']:.0f} |",
                    flush=True,
                )
            print(f"every byte returned: {same(first, back)}", flush=True)


def measure(source: Path, target: Path, to: str) -> None:
    start = time.perf_counter()
    convert(source, target, to=to)  # pyright: ignore[reportArgumentType]
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": resident("VmHWM")}))


def same(one: Path, other: Path) -> bool:
    """Whether two files, or all files of two folders, hold the same bytes."""
    if one.is_file():
        return filecmp.cmp(one, other, shallow=False)
    names = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    others = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    return names == others and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names
    )


if __name__ == "__main__":
    main()
