import time

import pytest

from plait.federation import _part_from


class Channel:
    """One client more is back whenever somebody waits, and so many seconds later."""

    def __init__(self, *, open_ended=True, comes=True):
        self.open_ended = open_ended
        self.comes = comes
        self.here = 0
        self.waits = 0

    def nodes(self, at_least):
        return list(range(self.here))

    def wait(self, timeout_s):
        self.waits += 1
        self.here += self.comes


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]

    def monotonic():
        now[0] += 10.0
        return now[0]

    monkeypatch.setattr(time, "monotonic", monotonic)


def test_a_server_whose_rounds_are_done_waits_for_its_clients_so_that_they_hear_it(clock):
    channel = Channel()
    _part_from(channel, 3)
    assert channel.here == 3


def test_but_not_for_long_and_in_one_process_not_at_all(clock):
    gone = Channel(comes=False)
    _part_from(gone, 3)
    assert 0 < gone.waits < 10
    here = Channel(open_ended=False)
    _part_from(here, 3)
    assert here.waits == 0
