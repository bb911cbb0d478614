from __future__ import annotations

import threading

import pytest

from client.abandonment import Abandonment
from plait.abandon import Abandoned, check_abandoned


def test_work_that_is_not_abandoned_goes_on_and_its_steps_are_counted() -> None:
    abandonment = Abandonment()
    with abandonment.obeyed():
        for _ in range(3):
            check_abandoned()
    abandonment.check()
    assert abandonment.steps == 3


def test_abandoned_work_stops_at_its_next_step_and_says_the_first_reason() -> None:
    abandonment = Abandonment()
    for reason in ("deadline", "enough"):
        thread = threading.Thread(target=abandonment.ask, args=(reason,))
        thread.start()
        thread.join()
    with abandonment.obeyed(), pytest.raises(Abandoned, match="deadline"):
        check_abandoned()


def test_the_next_work_is_not_stopped_and_neither_is_work_in_another_thread() -> None:
    abandonment, stopped = Abandonment(), []
    abandonment.ask("enough")
    with abandonment.obeyed():
        other = threading.Thread(target=lambda: stopped.append(check_abandoned()))
        other.start()
        other.join()
    check_abandoned()
    assert stopped == [None]


def test_a_wait_ends_when_the_work_is_abandoned() -> None:
    abandonment = Abandonment()
    threading.Timer(0.01, abandonment.ask, ("enough",)).start()
    with pytest.raises(Abandoned):
        abandonment.pause(600)


def test_a_call_is_cancelled_once_while_it_runs_and_never_after() -> None:
    abandonment, cancelled = Abandonment(), []
    with abandonment.cancelling(lambda: cancelled.append("first")):
        pass
    with abandonment.cancelling(lambda: cancelled.append("second")):
        abandonment.ask("enough")
        abandonment.ask("again")
    assert cancelled == ["second"]


def test_a_call_that_begins_after_the_work_was_abandoned_is_cancelled_at_once() -> None:
    abandonment, cancelled = Abandonment(), []
    abandonment.ask("enough")
    with pytest.raises(Abandoned), abandonment.cancelling(lambda: cancelled.append("late")):
        raise AssertionError("the block must not run")
    assert cancelled == ["late"]
