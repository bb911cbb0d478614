"""Runs of a sweep, one after the other in this process, or in several processes beside each other."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from plait.child import Child
from plait.features.studies.cell import Outcome, attempt
from plait.features.studies.grid import Cell
from plait.rounds.stop import StopRequest
from plait.simulation.loaded import Loaded

_LOOK_S = 0.2
"""How often a process that waits for others looks whether it is to stop."""


def in_this_process(
    cells: Sequence[Cell], paths: Mapping[str, Path], stop: StopRequest
) -> Generator[tuple[Cell, Outcome]]:
    """Do the runs in order, and say of each how it ended; base, data and tokens are loaded once."""
    loaded = Loaded()
    try:
        for cell in cells:
            outcome = attempt(cell.settings, paths[cell.name], loaded, stop)
            if outcome.error:
                # What a failed run left in memory is not trusted.
                loaded.close()
                loaded = Loaded()
            yield cell, outcome
            if outcome.interrupted or stop.asked:
                return
    finally:
        loaded.close()


def in_processes(
    cells: Sequence[Cell], paths: Mapping[str, Path], stop: StopRequest, jobs: int
) -> Generator[tuple[Cell, Outcome]]:
    """Do the runs in `jobs` processes, each of which loads base and data once; the arguments are those above."""
    children = _Children(paths, stop)
    with ThreadPoolExecutor(min(jobs, len(cells))) as threads:
        cell_of = {threads.submit(children.attempt, cell): cell for cell in cells}
        stop.heeded = True
        try:
            while cell_of:
                ended, _ = wait(cell_of, _LOOK_S, FIRST_COMPLETED)
                if stop.asked:
                    # Again and again, for a thread may have been about to start its process.
                    children.stop()
                for future in ended:
                    cell = cell_of.pop(future)
                    if outcome := future.result():
                        yield cell, outcome
        finally:
            stop.heeded = False
            threads.shutdown(wait=False, cancel_futures=True)
            children.close()


class _Children:
    """The process of each thread; one that dies fails its run, and the next run starts another.

    Args:
        paths: directories of the runs, by name.
    """

    def __init__(self, paths: Mapping[str, Path], stop: StopRequest) -> None:
        self._paths = paths
        self._stop = stop
        self._by_thread: dict[int, Child] = {}
        self._lock = threading.Lock()
        self._is_closed = False

    def attempt(self, cell: Cell) -> Outcome | None:
        """Do a run; None if none is to begin any more."""
        with self._lock:
            if self._stop.asked or self._is_closed:
                return None
            here = threading.get_ident()
            child = self._by_thread[here] = self._by_thread.get(here) or Child("plait.features.studies.worker")
        child.say({"settings": dict(cell.settings), "path": str(self._paths[cell.name].absolute())})
        answer = child.hear()
        if answer is None:
            with self._lock:
                del self._by_thread[here]
            return Outcome(f"its process {child.ending()}; the run is continued when the sweep is started again")
        return Outcome(str(answer.said["error"]), bool(answer.said["interrupted"]))

    def stop(self) -> None:
        """Stop the runs in progress."""
        for child in list(self._by_thread.values()):
            child.say({"stop": True})

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._is_closed = True
            children = list(self._by_thread.values())
        for child in children:
            child.kill()
            child.ending()
