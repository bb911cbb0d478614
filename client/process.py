"""The process of `plait client`: its lock, the operator's data and machine, signals, and the node at work.

Knows nothing of connections and tasks.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from client.base import check_machine, open_or_decline
from client.consent import asker
from client.journal import Journal, Style, size
from client.node import Node
from client.settings import NodeSettings, locked, memory_folder, prune
from client.task import OfferedRun, TaskRunner
from plait.data import Dataset, as_dataset
from plait.plugins import admit

if TYPE_CHECKING:
    from client.task import OfferedRun, TaskRunner


def run_node(settings: NodeSettings, journal: Journal) -> None:
    """Run plait's own ClientApp as a node until its run is over.

    Raises:
        DataError: the node's own data is invalid; found before connecting.
        RunInterrupted: the operator stopped it.
        PlaitError: as `Node.run`, and if another node has this name here.
    """
    with locked(settings.state, settings.name):
        ask = asker("Take part in this run?") if journal.style is Style.LINES else None
        admit(settings.data)
        dataset = as_dataset(settings.data, columns=settings.columns, split=settings.split)
        count = len(dataset.records)
        journal.tell("data", f"{count} record{'' if count == 1 else 's'} of own data read", records=count)

        node = make_node(settings, dataset, journal, ask=ask)
        with stopped_by_signals(node):
            node.run()


def make_node(
    settings: NodeSettings,
    dataset: Dataset,
    journal: Journal,
    *,
    ask: Callable[[], bool] | None = None,
    wrap: Callable[[Callable[[OfferedRun], TaskRunner]], Callable[[OfferedRun], TaskRunner]] = lambda opening: opening,
) -> Node:
    """A node that takes part with these data.

    Args:
        ask: asks the operator for consent; None if there is no terminal.
        wrap: given what opens a run, returns what the node calls instead.

    Raises:
        PlaitError: the machine lacks what the settings name.
    """

    def progress(text: str) -> None:
        journal.tell("preparing", text)

    def open_for(run: OfferedRun) -> TaskRunner:
        make_room(run, settings, journal)
        return open_or_decline(run, settings, dataset, progress=progress, ask=ask, kept=kept)

    progress("loading libraries")
    check_machine(settings, progress=progress)
    from client.participant import KeptBase
    from client.sent import recorded

    kept = KeptBase()
    return Node(settings, wrap(recorded(settings, open_for)), journal)


def make_room(run: OfferedRun, settings: NodeSettings, journal: Journal) -> None:
    """Remove what the server of an earlier run could send again, and report the rest of such runs."""
    earlier = prune(settings.state, settings.name, keep=memory_folder(settings.state, run.run_id, settings.name))
    if earlier.runs:
        journal.tell(
            "state",
            f"'{settings.state}' holds {size(earlier.bytes)} of earlier runs ({earlier.runs}): personalized adapters "
            "and the state of unfinished runs; delete the folders of runs that you no longer need",
            runs=earlier.runs,
            bytes=earlier.bytes,
        )


@contextmanager
def stopped_by_signals(node: Node) -> Generator[None]:
    """The first Ctrl-C or SIGTERM stops the node in an orderly way, the second at once."""
    asked = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        node.stop(by_system=number == signal.SIGTERM)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
