"""Imports go downward only, whatever form they take; see the layers in the design."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kinora

ROOT = Path(kinora.__file__).parent

LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("arguments",),
    ("types", "device", "amounts", "spelled"),
    ("config", "pixels"),
    ("request", "models", "diffusion", "media", "synthetic"),
    ("weights", "clip", "noise", "photo_cache"),
    ("runtime", "finite"),
    ("events", "steps"),
    ("pipeline",),
    ("loading",),
    ("train", "compat", "serve", "curate", "evaluate"),
    ("cli",),
    ("__main__",),
)
"""Lowest first. Parts of one layer don't import each other."""

LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}

IMPORTERS = ("import_module", "__import__", "find_spec", "run_module", "load_module")


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    found: dict[str, Path] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("kinora", *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, tree: ast.AST, *, package: bool) -> Iterator[tuple[int, str]]:
    """Lines and full names of what a module imports from Kinora, at any depth and in any form."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = name.split(".")
                base = parts[: len(parts) - node.level + package]
                source = ".".join([*base, *([source] if source else [])])
            for alias in node.names:
                yield node.lineno, f"{source}.{alias.name}"
        elif isinstance(node, ast.Call) and called(node) in IMPORTERS:
            yield node.lineno, literal(node)


def called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def literal(node: ast.Call) -> str:
    """What a call imports; what is only known at run time could be anything."""
    match node.args:
        case [ast.Constant(value=str(name)), *_]:
            return name if not name.startswith(".") else "kinora.?"
        case _:
            return "kinora.?"


def part_of(full: str) -> str:
    """The part that a full name belongs to; what the root hands out counts as its home."""
    names = full.split(".")
    if len(names) == 1 or names[1] == "*":
        return "?"  # the whole package: all of it
    name = names[1]
    if name.startswith("__") and name != "__main__":
        return "errors"  # __version__ and the like need nothing
    return kinora._HOME_OF.get(name, name)  # pyright: ignore[reportPrivateUsage]


def violations(name: str, source: str, *, package: bool = False) -> list[str]:
    """What a module imports although it stands in its own layer or above."""
    own = part_of(name)
    wrong: list[str] = []
    for line, full in imports(name, ast.parse(source), package=package):
        if full != "kinora" and not full.startswith("kinora."):
            continue
        part = part_of(full)
        allowed = part in LEVEL and (LEVEL[part] < LEVEL[own] or part == own)
        if not allowed:
            wrong.append(f"{name}:{line} imports {full}")
    return wrong


def test_every_part_has_its_layer() -> None:
    parts = {name.split(".")[1] for name in modules() if "." in name}
    assert parts <= set(LEVEL)


def test_imports_go_downward_only() -> None:
    found: list[str] = []
    for name, path in modules().items():
        if name != "kinora":  # the root loads names from everywhere, when they are first used
            found += violations(name, path.read_text(), package=path.name == "__init__.py")
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import kinora",
        "import kinora.pipeline",
        "import os, kinora.cli as c",
        "from kinora import pipeline",
        "from kinora import load",
        "from kinora import Pipeline as P",
        "from kinora import *",
        "from kinora.pipeline import Pipeline",
        "from kinora.media import fit",
        "from .. import pipeline",
        "from ..loading import load",
        "from ..media.photo import fit",
        "def f():\n    from kinora.weights.load import load_networks",
        "if TYPE_CHECKING:\n    from kinora.clip import Clip",
        "try:\n    import kinora.train\nexcept ImportError: pass",
        "import importlib\nimportlib.import_module('kinora.pipeline')",
        "from importlib import import_module\nimport_module('..pipeline', __package__)",
        "import_module(f'kinora.{name}')",
        "__import__('kinora.pipeline')",
        "class A:\n    def f(self):\n        import kinora.serve.http",
    ],
)
def test_every_form_of_import_is_seen(line: str) -> None:
    assert len(violations("kinora.diffusion.samplers", line)) == 1


def test_what_is_allowed_passes() -> None:
    source = (
        "import os, torch\nfrom kinora import __version__\nfrom kinora.errors import KinoraError\n"
        "from kinora import RequestError\nfrom . import schedule\nfrom .schedule import karras\n"
        "from kinora.diffusion.schedule import karras\nfrom ..types import Latents\n"
        "import_module('json')"
    )
    assert violations("kinora.diffusion.samplers", source) == []
    assert violations("kinora.diffusion", "from .samplers import euler", package=True) == []


def test_no_module_of_a_lower_layer_is_named_like_two() -> None:
    """A file and a folder of one name would hide each other."""
    names = [path.stem for path in ROOT.iterdir() if re.fullmatch(r"[a-z_]+(\.py)?", path.name)]
    assert len(names) == len(set(names))
