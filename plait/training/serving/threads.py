"""How many threads a server computes with: all, or one while something else has a core.

A step of a few rows is hundreds of small products, and after each the threads wait for the slowest. Where another
process has a core, one of them waits for its turn there, and all wait for it: one thread alone is faster then. Which it
is can only be seen by trying. Knows nothing of what is computed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from plait.training.device import Compute, use_threads

# Steps with the faster number between two trials of the other one, and steps of a trial.
_STAY = 64
_TRY = 4


def choose_threads(threads: int, compute: Compute) -> ThreadChoice | None:
    """A choice for a server that computes on the CPU and was given no number of threads; None for any other."""
    most = use_threads(threads)
    return None if threads or compute.device.type != "cpu" else ThreadChoice(most, torch.set_num_threads)


class ThreadChoice:
    """Takes the number of threads whose steps take less time, and tries the other one now and then.

    Args:
        most: threads where nothing else runs.
        set_threads: makes the next computations use so many.
        clock: seconds.
    """

    def __init__(
        self, most: int, set_threads: Callable[[int], None], *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._set, self._clock = set_threads, clock
        self._chosen, self._other = most, 1
        self._trying = False
        # Seconds of the newest steps with either.
        self._newest = {most: deque[float](maxlen=_TRY), 1: deque[float](maxlen=_TRY)}
        self._steps = 0

    @property
    def threads(self) -> int:
        """What the next step uses."""
        return self._other if self._trying else self._chosen

    @contextmanager
    def step(self) -> Generator[None]:
        """Around one step; always in the same thread."""
        started = self._clock()
        yield
        if self._chosen == self._other:
            return
        self._newest[self.threads].append(self._clock() - started)
        self._steps += 1
        if self._steps < (_TRY if self._trying else _STAY):
            return
        if self._trying and sum(self._newest[self._other]) < sum(self._newest[self._chosen]):
            self._chosen, self._other = self._other, self._chosen
        self._trying, self._steps = not self._trying, 0
        self._set(self.threads)
