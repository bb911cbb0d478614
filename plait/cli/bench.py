"""``plait bench``: runs the benchmarks, which are part of the source tree only."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import typer

import plait
from plait.errors import MachineError


def bench(context: typer.Context) -> None:
    """Measure plait against alternatives and the machine's limit; needs the source tree.

    Example: plait bench wire --quick
    """
    root = Path(plait.__file__).parents[1]
    if not (root / "simulations" / "bench" / "commands.py").is_file():
        raise MachineError("benchmarks need plait's source tree: run plait bench in a checkout")
    sys.path[:] = [str(root), *(place for place in sys.path if place != str(root))]
    commands = importlib.import_module("simulations.bench.commands")
    commands.bench(args=context.args, prog_name="plait bench", standalone_mode=False)
