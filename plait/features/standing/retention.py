"""What older runs of a federation give up so that there is room for newer ones.

Only what no result needs goes: updates received, unread answers, and all but the newest checkpoint. Adapter,
ledger, settings, report and keys stay, since there may be no other copy.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from plait.features.standing.run_queue import Entry, RunQueue
from plait.rounds.checkpoint import checkpoints_in
from plait.rounds.run_directory import RunDirectory


def tidy_runs(queue: RunQueue, *, keep: int) -> int:
    """Take from all runs that are over, but the newest, what only `plait verify` and a resume would read.

    Returns:
        Bytes freed.
    """
    over = sorted((entry for entry in queue.entries() if entry.is_over), key=_ended)
    return sum(_tidy(queue.folder(entry.run)) for entry in over[: max(0, len(over) - keep)])


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, which others may be writing."""
    total = 0
    # Unlike `rglob`, which fails where a folder goes while it is read.
    for above, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                facts = Path(above, name).lstat()
                total += facts.st_size if stat.S_ISREG(facts.st_mode) else 0
    return total


def _ended(entry: Entry) -> float:
    return entry.ended or entry.submitted


def _tidy(run: Path) -> int:
    return _remove((run / "spool", RunDirectory(run).inbox, *checkpoints_in(run / "checkpoints")[:-1]))


def _remove(folders: Iterable[Path]) -> int:
    freed = 0
    for folder in folders:
        before = size_of(folder)
        # What cannot be removed only takes space.
        shutil.rmtree(folder, ignore_errors=True)
        freed += before - size_of(folder)
    return freed
