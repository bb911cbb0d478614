"""The run that a verb is about: the one named, or the newest in ``runs/``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.errors import ConfigError
from plait.progress import say

RunOrNewest = Annotated[
    Path | None, typer.Argument(help="Run directory; by default the newest in runs/.", metavar="[RUN]")
]

_RUNS = Path("runs")


def run_or_newest(run: Path | None, *, quiet: bool = False) -> Path:
    """The run directory that a command line names, or the newest in ``runs/``.

    Raises:
        ConfigError: no run is named or found.
    """
    if run is not None:
        return run
    found = [ledger for ledger in _RUNS.glob("*/ledger.jsonl") if ledger.is_file()]
    if not found:
        raise ConfigError("no run is named and 'runs/' holds none; name one, or begin one with `plait simulate`")
    newest = max(found, key=lambda ledger: (ledger.stat().st_mtime_ns, ledger)).parent
    say(f"the newest run: {newest}", quiet=quiet)
    return newest
