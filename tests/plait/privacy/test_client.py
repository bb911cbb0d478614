"""What a client's journal of its data lets servers spend, over all runs."""

from pathlib import Path

import pytest

from plait.errors import ConfigError, PolicyError
from plait.privacy.client import SpentJournal
from plait.rounds.data_journal import DataJournal


class Kept(DataJournal):
    """A journal in memory."""

    def __init__(self, lines=None):
        super().__init__(Path())
        self.lines = [] if lines is None else lines

    def read(self):
        return list(self.lines)

    def append(self, line):
        self.lines.append(line)


def test_epsilon_adds_up_over_runs():
    journal = Kept()
    one = SpentJournal(journal, "one", 4.0)
    for epsilon in (1.5, 3.0, 2.0):  # the last asked again after a kill
        one.pay(epsilon, 1e-5)
    nobody = SpentJournal(journal, "")
    assert (nobody.earlier(), one.earlier()) == (3.0, 0.0)
    again = SpentJournal(Kept(journal.lines), "two", 4.0)
    with pytest.raises(PolicyError, match=r"in this federation to 5, 3 of it in earlier runs"):
        again.pay(2.0, 1e-5)
    again.pay(1.0, 1e-5)
    SpentJournal(journal, "three").pay(9.0, 1e-5)
    assert nobody.earlier() == 13.0


def test_two_processes_that_pay_at_once_do_not_both_go_on(monkeypatch):
    journal = Kept()
    other = SpentJournal(Kept(journal.lines), "other", 4.0)

    def append_after_the_other(line):
        other.pay(3.0, 1e-5)
        journal.lines.append(line)

    monkeypatch.setattr(journal, "append", append_after_the_other)
    with pytest.raises(PolicyError, match="to 6, 3 of it in earlier runs"):
        SpentJournal(journal, "one", 4.0).pay(3.0, 1e-5)


@pytest.mark.parametrize("line", ["", "{", "[]", '{"spent": "x", "epsilon": "y"}'])
def test_a_damaged_journal_lets_nothing_through(line):
    with pytest.raises(ConfigError, match="is damaged"):
        SpentJournal(Kept([line]), "").earlier()
