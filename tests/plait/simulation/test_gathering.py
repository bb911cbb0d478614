from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from plait.simulation.gathering import Gathering


def doubling(seen: list[list[int]]) -> Gathering[int, int]:
    def answer(asked: Sequence[int]) -> list[int]:
        seen.append(list(asked))
        return [2 * each for each in asked]

    return Gathering(answer)


def test_what_is_asked_is_answered_together_and_in_order() -> None:
    seen: list[list[int]] = []
    gathering = doubling(seen)
    order: list[str] = []

    def work(number: int) -> Callable[[], int]:
        def run() -> int:
            order.append(f"begin {number}")
            first = gathering.ask(number)
            order.append(f"go on {number}")
            return gathering.ask(first + 1) if number != 2 else first

        return run

    assert gathering.run([work(1), work(2), work(3)]) == [6, 4, 14]
    assert seen == [[1, 2, 3], [3, 7]]
    assert order == ["begin 1", "begin 2", "begin 3", "go on 1", "go on 2", "go on 3"]


def test_outside_of_a_run_an_answer_comes_at_once() -> None:
    seen: list[list[int]] = []
    assert doubling(seen).ask(4) == 8
    assert seen == [[4]]


def test_work_that_fails_or_asks_nothing_does_not_hold_up_the_others() -> None:
    seen: list[list[int]] = []
    gathering = doubling(seen)
    done: list[int] = []

    def fails() -> int:
        raise ValueError("broken")

    def asks() -> int:
        done.append(gathering.ask(5))
        return done[0]

    assert gathering.run([lambda: 7, asks]) == [7, 10]
    with pytest.raises(ValueError, match="broken"):
        gathering.run([fails, asks])
    assert seen == [[5], [5]]
    assert done == [10, 10]


def test_who_asked_is_told_when_there_is_no_answer() -> None:
    def answer(_: Sequence[int]) -> list[int]:
        raise ArithmeticError("nan")

    gathering = Gathering(answer)

    def asks() -> str:
        try:
            gathering.ask(1)
        except ArithmeticError as error:
            return f"told: {error}"
        return "not told"

    assert gathering.run([asks, asks]) == ["told: nan"] * 2


def test_an_interruption_of_the_caller_leaves_no_thread_behind() -> None:
    def answer(_: Sequence[int]) -> list[int]:
        raise KeyboardInterrupt

    gathering = Gathering(answer)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        gathering.run([lambda: gathering.ask(1), lambda: gathering.ask(2)])
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon and "_work" in thread.name:
            thread.join(timeout=5)
    assert threading.active_count() == before
