"""Runs of a sweep, one after the other in this process, or in several processes beside each other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plait.child import Child
from plait.rounds.stop import StopRequest
from plait.simulation.loaded import Loaded
from plait.study.attempt import Outcome, attempt
from plait.study.grid import Cell

_LOOK_S = 0.2
"""How often a process that waits for others looks whether it is to stop."""


@dataclass(frozen=True)
class Done:
    """A run that has ended, and how."""

    cell: Cell
    outcome: Outcome


def in_this_process(cells: Sequence[Cell], paths: Mapping[str, Path], stop: StopRequest) -> Generator[Done]:
    """Do the runs in order; base, data and tokens are loaded once.

    Args:
        cells: the runs.
        paths: their directories, by name.
        stop: ends the iteration after the run that it stops.
    """
    loaded = Loaded()
    try:
        for cell in cells:
            outcome = attempt(cell.settings, paths[cell.name], loaded, stop)
            if outcome.error:
                # What a failed run left in memory is not trusted.
                loaded.close()
                loaded = Loaded()
            yield Done(cell, outcome)
            if outcome.interrupted or stop.asked:
                return
    finally:
        loaded.close()


def in_processes(cells: Sequence[Cell], paths: Mapping[str, Path], stop: StopRequest, jobs: int) -> Generator[Done]:
    """Do the runs in `jobs` processes, each of which loads base and data once; the arguments are those above."""
    waiting, done = iter(cells), queue.SimpleQueue[Done | None]()
    lock = threading.Lock()

    def next_cell() -> Cell | None:
        with lock:
            return None if stop.asked else next(waiting, None)

    workers = [_Worker(next_cell, paths, done.put) for _ in range(min(jobs, len(cells)))]
    threads = [threading.Thread(target=worker.work, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    stop.heeded = True
    left = len(workers)
    try:
        while left:
            try:
                ended = done.get(timeout=_LOOK_S)
            except queue.Empty:
                if stop.asked:
                    # Again and again, for a worker may have been about to start its process.
                    for worker in workers:
                        worker.stop()
                continue
            if ended is None:
                left -= 1
            else:
                yield ended
    finally:
        stop.heeded = False
        for worker in workers:
            worker.close()


class _Worker:
    """One process and the thread that speaks to it; a process that dies fails its run and is started again.

    Args:
        next_cell: the next run to do; None if there is none.
        paths: directories of the runs, by name.
        tell: told of every run that has ended, and at the end of None.
    """

    def __init__(
        self, next_cell: Callable[[], Cell | None], paths: Mapping[str, Path], tell: Callable[[Done | None], None]
    ) -> None:
        self._next_cell = next_cell
        self._paths = paths
        self._tell = tell
        self._child: Child | None = None

    def work(self) -> None:
        """Do runs until there are none."""
        try:
            while cell := self._next_cell():
                self._tell(Done(cell, self._attempt(cell)))
        finally:
            self._tell(None)

    def stop(self) -> None:
        """Stop the run in progress."""
        if child := self._child:
            child.say({"stop": True})

    def close(self) -> None:
        """End the process."""
        if self._child:
            self._child.kill()
            self._child.ending()

    def _attempt(self, cell: Cell) -> Outcome:
        child = self._child = self._child or Child("plait.study.worker")
        child.say({"settings": dict(cell.settings), "path": str(self._paths[cell.name].absolute())})
        answer = child.hear()
        if answer is None:
            self._child = None
            how = child.ending()
            return Outcome(f"its process {how}; the run is continued when the sweep is started again")
        return Outcome(str(answer.said["error"]), bool(answer.said["interrupted"]))
