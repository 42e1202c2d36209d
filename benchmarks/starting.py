"""How long it takes until something happens: the help text, and the import.

    python -m benchmarks.starting --json starting.json

Beside Python's own start, which is part of both, in turns.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.duel import report, row

NOTHING = (sys.executable, "-c", "pass")
STARTS = {
    "kinora --help": (str(Path(sys.executable).parent / "kinora"), "--help"),
    "import kinora": (sys.executable, "-c", "import kinora"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [
        row(name, [(seconds(command), seconds(NOTHING)) for _ in range(options.pairs)], "s", 0.0)
        for name, command in STARTS.items()
        if seconds(command) > 0  # the files are in memory after a first run
    ]
    report(rows, options.json)


def seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
