"""What the verbs print on stdout: JSON for machines, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from plait.text import fitted

if TYPE_CHECKING:
    from plait.report.table import Table


def print_json(value: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_text(text: str, *, indent: int = 0) -> None:
    """Print lines, broken between words where a terminal is narrower; the arguments are those of `fitted`."""
    sys.stdout.write(fitted(text, sys.stdout, indent=indent) + "\n")


def print_tables(tables: Iterable[Table]) -> None:
    """Print tables, one below the other."""
    from rich.console import Console

    from plait.report.rich_table import to_rich

    screen = Console()
    for table in tables:
        screen.print(to_rich(table))
