"""The queue of a federation that stays: what operators asked of it, and what became of it."""

from plait.queue.acts import Outcome
from plait.queue.retention import size_of, tidy_runs
from plait.queue.run_queue import JOURNAL_FILE, Entry, RunQueue, State, read_queue

__all__ = [
    "JOURNAL_FILE",
    "Entry",
    "Outcome",
    "RunQueue",
    "State",
    "read_queue",
    "size_of",
    "tidy_runs",
]
