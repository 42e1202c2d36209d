"""Arguments of other types: taken where their meaning is obvious, else one clear error.

Both in processes of their own: the checks of types that the tests run under would answer first.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_no_argument_of_a_wrong_type_ends_in_anything_but_a_clear_error() -> None:
    """Every argument of every public function, each with two dozen wrong values."""
    ran = run("tests.wrong_types")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["calls"] > 3000
    assert told["found"] == {}


def test_what_is_obvious_is_taken() -> None:
    ran = run("pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "tests/accepted_types.py")
    assert ran.returncode == 0, ran.stdout
