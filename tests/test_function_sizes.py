"""A function is read at one sight: at most 60 lines and 12 parameters."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES, MOST_PARAMETERS = 60, 12


def larger() -> Iterator[str]:
    for part in ("plait", "server", "client"):
        for path in sorted((ROOT / part).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith("plait/v1/"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_larger(node):
                    yield f"{name}:{node.name}"


def is_larger(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    given = function.args
    parameters = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    count = len(parameters) - (parameters[:1] in (["self"], ["cls"]))
    return (function.end_lineno or 0) - function.lineno >= MOST_LINES or count > MOST_PARAMETERS


def test_no_function_is_longer_or_takes_more_than_it_should():
    assert list(larger()) == []
