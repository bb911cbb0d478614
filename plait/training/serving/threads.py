"""The number of threads that a server computes with: all, or one while another process uses a core.

A step of a few rows is hundreds of small products, after each of which the threads wait for the slowest. If another
process has a core, one of them waits for its turn there, and all wait for it: then one thread alone is faster. Only a
trial can tell. Knows nothing of the computation.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from plait.training.device import Compute, use_threads

# Steps at the faster number between two trials of the other, and steps per trial.
_STAY = 64
_TRY = 4


def choose_threads(threads: int, compute: Compute) -> ThreadChoice | None:
    """A choice for a server that computes on the CPU without a fixed number of threads; None for any other."""
    most = use_threads(threads)
    return None if threads or compute.device.type != "cpu" else ThreadChoice(most, torch.set_num_threads)


class ThreadChoice:
    """Uses the number of threads with the faster steps, and tries the other one now and then.

    Args:
        set_threads: sets the number for the next computations.
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
        """The number for the next step."""
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
