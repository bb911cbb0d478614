import threading
from collections import deque
from dataclasses import dataclass, field
from functools import partial

import pytest

import plait.rounds.spool as side_by_side
from plait.rounds.cohort import Arrivals
from plait.rounds.dispatch import RoundAnswer
from plait.wire.messages import UpdateReply

NOW, NEVER = 5.0, 1e9
THREADS = 3


@dataclass
class Dispatched:
    """A dispatch, its roster, its channel and its clock: some answers are there, and no others will come."""

    there: deque
    deadlines: list = field(default_factory=list)
    open_ended = True

    @property
    def channel(self):
        return self

    clock = roster = channel

    def now(self):
        return NOW

    def next_answer(self, deadline):
        self.deadlines.append(deadline)
        return self.there.popleft() if self.there else None


def dispatched(count):
    return Dispatched(deque(RoundAnswer(f"client-{k}", UpdateReply(b""), 0) for k in range(count)))


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    monkeypatch.setattr(side_by_side, "cores", lambda: THREADS)


def arrivals(dispatch, work, *, each_bytes=1):
    return Arrivals(dispatch, lambda answer: partial(work, answer.client), each_bytes=each_bytes)


def test_updates_are_taken_in_the_order_of_arrival_whichever_is_opened_first():
    second = threading.Event()

    def work(client):
        # The first is not done before the second, which only another thread can do meanwhile.
        if client == "client-0":
            assert second.wait(180)
        if client == "client-1":
            second.set()
        return client

    with arrivals(dispatched(7), work) as came:
        taken = [came.next(NEVER, wanted=100) for _ in range(7)]
        assert [(answer.client, found) for answer, found in filter(None, taken)] == [
            (f"client-{k}", f"client-{k}") for k in range(7)
        ]
        assert came.next(NEVER, wanted=100) is None


def test_updates_too_large_to_be_held_are_opened_one_by_one_where_they_are_taken():
    dispatch = dispatched(3)
    with arrivals(dispatch, lambda _: threading.get_ident(), each_bytes=1 << 28) as came:
        for left in (2, 1, 0):
            found = came.next(NEVER, wanted=100)
            assert found[1] == threading.get_ident()
            assert len(dispatch.there) == left


def test_a_bad_update_comes_in_its_place_and_spoils_no_other():
    def work(client):
        if client == "client-1":
            raise ValueError(f"{client} cannot be read")
        return client

    with arrivals(dispatched(3), work) as came:
        assert came.next(NEVER, wanted=3) == (RoundAnswer("client-0", UpdateReply(b""), 0), "client-0")
        with pytest.raises(ValueError, match="client-1 cannot be read"):
            came.next(NEVER, wanted=3)
        assert came.next(NEVER, wanted=3) == (RoundAnswer("client-2", UpdateReply(b""), 0), "client-2")


def test_a_missing_update_does_not_delay_those_that_came():
    dispatch = dispatched(1)
    with arrivals(dispatch, str) as came:
        assert came.next(NEVER, wanted=2) is not None
        # Only a look: one has come already.
        assert dispatch.deadlines == [NEVER, NOW]
        assert came.next(NEVER, wanted=1) is None
        assert dispatch.deadlines == [NEVER, NOW, NEVER]
