"""The queue of a federation that stays: what operators asked of it, and what became of it."""

from plait.queue.acts import Outcome, PageLinkMade, PageLinkUsed
from plait.queue.hold import held
from plait.queue.run_queue import JOURNAL_FILE, Entry, RunQueue, State, read_queue

__all__ = [
    "JOURNAL_FILE",
    "Entry",
    "Outcome",
    "PageLinkMade",
    "PageLinkUsed",
    "RunQueue",
    "State",
    "held",
    "read_queue",
]
