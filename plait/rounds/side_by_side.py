"""Work on several threads at once; results come in the order of submission.

What it does must leave the interpreter to others for most of its time. Memory is bounded: little is given ahead of the
result that is taken next. Knows nothing of updates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

from plait.machine import cores

_MOST_BYTES = 1 << 28  # of all results that wait
T = TypeVar("T")


class SideBySide(Generic[T]):
    """As many threads as the machine has cores for; with one, work is done when its result is taken.

    Args:
        each_bytes: memory that a result takes.
    """

    def __init__(self, each_bytes: int) -> None:
        self._threads = min(cores(), _MOST_BYTES // max(1, each_bytes) - 1)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="update") if self._threads > 1 else None
        self._given: deque[Callable[[], T]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what was not taken."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        """Results that are still to be taken."""
        return len(self._given)

    @property
    def is_full(self) -> bool:
        """Whether to take a result before submitting more."""
        return len(self._given) > (self._threads if self._pool else 0)

    def give(self, work: Callable[[], T]) -> None:
        """Begin some work as soon as a thread is free."""
        if self._pool:
            future: Future[T] = self._pool.submit(work)
            work = future.result
        self._given.append(work)

    def take(self) -> T:
        """The result of what was given first.

        Raises:
            Exception: what the work raised.
        """
        return self._given.popleft()()


def side_by_side(each: Iterable[Callable[[], T]], each_bytes: int) -> Iterator[T]:
    """The results of some work, in its order."""
    with SideBySide[T](each_bytes) as work:
        for one in each:
            work.give(one)
            if work.is_full:
                yield work.take()
        while len(work):
            yield work.take()
