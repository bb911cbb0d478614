from __future__ import annotations

from client.backoff import Backoff


def test_the_bound_of_a_wait_doubles_but_stays_short_for_two_minutes() -> None:
    backoff = Backoff(first_s=1, most_s=60, draw=lambda _low, high: high)
    waits = [backoff.next_s() for _ in range(32)]
    assert waits == [1, 2, 4, *[5] * 23, 10, 20, 40, 60, 60, 60]
    backoff.reset()
    assert [backoff.next_s() for _ in range(4)] == [1, 2, 4, 5]


def test_no_wait_is_longer_than_the_most() -> None:
    backoff = Backoff(first_s=0.5, most_s=2, draw=lambda _low, high: high)
    assert [backoff.next_s() for _ in range(200)] == [0.5, 1, *[2] * 198]


def test_a_wait_is_drawn_from_nothing_to_the_bound() -> None:
    drawn: list[tuple[float, float]] = []
    backoff = Backoff(first_s=1, most_s=60, draw=lambda low, high: drawn.append((low, high)) or 0.5)
    assert [backoff.next_s(), backoff.next_s()] == [0.5, 0.5]
    assert drawn == [(0, 1), (0, 2)]
