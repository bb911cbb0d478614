from __future__ import annotations

import threading

import pytest

from plait.abandon import Abandoned, Abandonment, check_abandoned


def test_work_that_nobody_wants_stopped_goes_on_and_is_counted() -> None:
    wish = Abandonment()
    for _ in range(3):
        wish.check()
    assert wish.checks == 3


def test_a_wish_stops_the_work_at_its_next_check_from_any_thread() -> None:
    wish = Abandonment()
    thread = threading.Thread(target=wish.ask)
    thread.start()
    thread.join()
    with pytest.raises(Abandoned):
        wish.check()


def test_the_wish_ends_with_the_work() -> None:
    wish = Abandonment()
    wish.ask()
    wish.begin()
    wish.check()
    assert wish.checks == 1


def test_a_process_that_never_wishes_is_never_stopped() -> None:
    check_abandoned()
