"""Every script of an experiment fits the code of today: what it imports is there, and takes what it is called with."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "simulations").rglob("*.py"))
OWN = ("plait", "client", "server")


def imports_of(tree: ast.Module) -> Iterator[tuple[str, ast.alias]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias) for alias in node.names)


def made_in(tree: ast.AST) -> set[str]:
    """Names that are bound here, other than by `from … import`."""
    stored = {each.id for each in ast.walk(tree) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    defined = {
        each.name for each in ast.walk(tree) if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
    }
    return stored | defined


def value_of(module: str, name: str) -> object:
    found = importlib.import_module(module)
    return getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{module}.{name}")


def fault_of(call: ast.Call, function: object) -> str:
    """Why a function would not take the arguments of a call; empty if it would, or if that cannot be told."""
    try:
        signature = inspect.signature(function)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return ""
    given = {each.arg: None for each in call.keywords if each.arg}
    is_open = len(given) < len(call.keywords) or any(isinstance(each, ast.Starred) for each in call.args)
    places = [None for each in call.args if not isinstance(each, ast.Starred)]
    try:
        (signature.bind_partial if is_open else signature.bind)(*places, **given)
    except TypeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.relative_to(ROOT / "simulations").as_posix())
def test_a_script_fits_the_code(script):
    tree = ast.parse(script.read_text())
    values: dict[str, object] = {}
    for module, alias in imports_of(tree):
        if module.partition(".")[0] in OWN:
            values[alias.asname or alias.name] = value_of(module, alias.name)
            continue
        places = (script.parent, script.parents[1], ROOT, ROOT / "tests")
        beside = [place / f"{module.replace('.', '/')}.py" for place in places]
        if there := next((path for path in beside if path.exists()), None):
            other = ast.parse(there.read_text())
            assert alias.name in made_in(other) | {each.asname or each.name for _, each in imports_of(other)}, module
    taken = values.keys() - made_in(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in taken:
            assert not (fault := fault_of(node, values[node.func.id])), f"line {node.lineno}: {node.func.id}: {fault}"
