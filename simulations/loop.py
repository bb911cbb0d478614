"""Runs one after the other, each begun or continued to its end; what is finished is not run again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plait.api.settings import run_config_of
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.rounds.run_directory import RunDirectory
from plait.simulation.execution import begin, execute, prepare
from plait.simulation.loaded import Loaded


def run_once(settings: Mapping[str, object], path: Path, loaded: Loaded | None = None) -> RunView:
    """The record of a run with these settings in a directory.

    Raises:
        PlaitError: the reason that it stopped.
    """
    directory = RunDirectory(path)
    if not (directory.has_started and RunView.after(read_events(directory.ledger)).finished):
        run, data = prepare(run_config_of({**settings, "out": str(path)}), quiet=True, loaded=loaded)
        execute(run, data, None if directory.has_started else begin(run, quiet=True), quiet=True, loaded=loaded)
    return RunView.of(read_events(directory.ledger))
