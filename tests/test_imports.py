"""Data goes one way, without a circle of imports, those inside functions included; a class name means one thing."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules() -> dict[str, Path]:
    files = (file for part in ("plait", "server", "client") for file in (ROOT / part).rglob("*.py"))
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
        if "_pb2" not in file.name
    }


def imported(tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """Modules that a program imports; those under ``if TYPE_CHECKING`` are for readers."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.ImportFrom(module=str(module), names=names):
                for each in names:
                    yield f"{module}.{each.name}" if f"{module}.{each.name}" in known else module
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case _:
                yield from imported(node, known)


def test_no_module_imports_itself_by_way_of_others():
    known = modules()
    graph = {name: {*imported(ast.parse(file.read_text()), known)} & known.keys() for name, file in known.items()}
    assert len(graph) > 200
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_class_name_means_two_things():
    trees = (ast.parse(file.read_text()) for file in modules().values())
    classes = Counter(node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, count in classes.items() if count > 1 and not name.startswith("_")] == []
