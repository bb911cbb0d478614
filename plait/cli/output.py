"""What the verbs print on stdout: JSON for machines, tables for people; and the run that a verb is about."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from plait.errors import ConfigError
from plait.report.table import Table
from plait.report.terminal import say, to_rich
from plait.system.text import fitted


def print_json(value: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_text(text: str, *, indent: int = 0) -> None:
    """Print lines, broken between words where a terminal is narrower; the arguments are those of `fitted`."""
    sys.stdout.write(fitted(text, sys.stdout, indent=indent) + "\n")


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables, one below the other."""
    screen = Console()
    for table in tables:
        screen.print(to_rich(table))


RunOrNewest = Annotated[
    Path | None, typer.Argument(help="Run directory; by default the newest in runs/.", metavar="[RUN]")
]

_RUNS = Path("runs")


def run_or_newest(run: Path | None, *, quiet: bool = False) -> Path:
    """The run directory that a command line names, or the newest in ``runs/``."""
    if run is not None:
        return run
    found = [ledger for ledger in _RUNS.glob("*/ledger.jsonl") if ledger.is_file()]
    if not found:
        raise ConfigError("no run is named and 'runs/' holds none; name one, or begin one with `plait simulate`")
    newest = max(found, key=lambda ledger: (ledger.stat().st_mtime_ns, ledger)).parent
    say(f"the newest run: {newest}", quiet=quiet)
    return newest
