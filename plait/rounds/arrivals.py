"""The answers of a dispatch in the order they came, while the updates among them are opened side by side.

Looks ahead only at what has come already, and never takes more answers than a round may need. Knows no checks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Self, TypeVar

from plait.rounds.dispatch import Answer, Dispatch
from plait.rounds.side_by_side import SideBySide

T = TypeVar("T")


class Arrivals(Generic[T]):
    """The answers to come.

    Args:
        opening: of an answer, the work that opens its update; None where it has none.
        each_bytes: memory that an opened update takes.
    """

    def __init__(
        self, dispatch: Dispatch, opening: Callable[[Answer], Callable[[], T] | None], *, each_bytes: int
    ) -> None:
        self._dispatch = dispatch
        self._opening = opening
        self._work = SideBySide[T | None](each_bytes)
        self._answers: deque[Answer] = deque()

    def __enter__(self) -> Self:
        self._work.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._work.__exit__(*error)

    def __len__(self) -> int:
        """Answers that came and were not taken."""
        return len(self._answers)

    def next(self, deadline: float | None, *, wanted: int) -> tuple[Answer, T | None] | None:
        """The next answer, and what was found in its update.

        Args:
            deadline: on the channel's clock; None for none.

        Returns:
            None once all have answered or the deadline has passed.
        """
        channel = self._dispatch.channel
        while len(self) < wanted and not self._work.is_full:
            # In a process with its clients no answer has come before it is asked for.
            if self._answers and not channel.open_ended:
                break
            answer = self._dispatch.next_answer(channel.clock.now() if self._answers else deadline)
            if answer is None:
                break
            self._answers.append(answer)
            self._work.give(self._opening(answer) or _nothing)
        return (self._answers.popleft(), self._work.take()) if self._answers else None


def _nothing() -> None:
    """There is no update to open."""
