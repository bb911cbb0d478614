"""What a feature is told when a server opens a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plait.rounds.events import Event
from plait.rounds.run_directory import RunDirectory
from plait.wire.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A run that begins, or goes on.

    Attributes:
        events: of its ledger; empty for a new run, whose ledger does not exist yet.
        size: numbers in the largest update.
        continues: whether it starts from other runs' adapters.
    """

    directory: RunDirectory
    events: Sequence[Event] = ()
    settings: Settings
    size: int
    base_parameters: int = 0
    continues: bool = False
