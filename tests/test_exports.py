"""What a module exports is what its `__all__` says."""

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

import kinora
from tests.test_layers import imports, modules

MODULES = modules()


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def bound(name: str) -> Iterator[str]:
    """Public names that a module binds at its top, be it by import, by definition or by value."""
    for node in tree(name).body:
        match node:
            case ast.ImportFrom(names=names) | ast.Import(names=names):
                yield from (alias.asname or alias.name for alias in names)
            case ast.FunctionDef(name=own) | ast.ClassDef(name=own):
                yield own
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=own)):
                yield own
            case _:
                pass


@pytest.mark.parametrize("name", MODULES)
def test_all_is_there_sorted_and_true(name: str) -> None:
    module = load(name)
    listed = module.__all__
    assert len(set(listed)) == len(listed)
    assert not [entry for entry in listed if entry.startswith("_")]
    missing = [entry for entry in listed if not hasattr(module, entry)]
    assert missing == []


@pytest.mark.parametrize(
    "name",
    [n for n, path in MODULES.items() if path.name == "__init__.py" and n != "kinora.cli"],
)
def test_a_package_exports_what_it_gathers(name: str) -> None:
    """(The command line's gathers commands to join them, not to hand them on.)"""
    if name == "kinora":
        gathered = set(kinora._HOME_OF)  # pyright: ignore[reportPrivateUsage]
    else:
        gathered = {
            alias.asname or alias.name
            for node in tree(name).body
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(name)
            for alias in node.names
            if f"{node.module}.{alias.name}" not in MODULES
        }
    own = {entry for entry in load(name).__all__ if entry in set(bound(name)) - gathered}
    assert set(load(name).__all__) - own == gathered


def test_what_another_module_imports_is_exported() -> None:
    hidden = [
        f"{name}:{line} takes {full}"
        for name, path in MODULES.items()
        for line, full in imports(name, tree(name), package=path.name == "__init__.py")
        if name != "kinora"
        and full.startswith("kinora.")
        and full not in MODULES
        and full.rpartition(".")[0] in MODULES
        and not full.rpartition(".")[2].startswith("__")
        and full.rpartition(".")[2] not in load(full.rpartition(".")[0]).__all__
    ]
    assert hidden == []


def test_star_import_gives_the_public_names_alone() -> None:
    scope: dict[str, object] = {}
    exec("from kinora import *", scope)
    assert set(scope) - {"__builtins__"} == set(kinora.__all__)
    assert set(kinora.__all__) <= set(dir(kinora))
    assert Path(kinora.__file__).name == "__init__.py"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'animate'"):
        _ = kinora.animate  # pyright: ignore[reportAttributeAccessIssue]
