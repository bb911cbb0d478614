"""What a client's journal of its data lets servers spend, over all runs."""

import pytest

from plait.errors import ConfigError, PolicyError
from plait.privacy.client import SpentJournal
from plait.rounds.data_journal import DataJournal


class Kept(list):
    """Lines in memory."""

    def read(self):
        return list(self)


@pytest.fixture
def journal():
    return SpentJournal(DataJournal(Kept()))


def test_epsilon_adds_up_over_runs(journal):
    journal.charge("one", 1.5, 1e-5, most=4.0)
    journal.charge("one", 3.0, 1e-5, most=4.0)
    journal.charge("one", 2.0, 1e-5, most=4.0)  # asked again after a kill
    assert journal.spent() == 3.0
    assert journal.spent(besides="one") == 0.0
    again = SpentJournal(DataJournal(journal.journal.lines))
    with pytest.raises(PolicyError, match=r"in this federation to 5, 3 of it in earlier runs"):
        again.charge("two", 2.0, 1e-5, most=4.0)
    again.charge("two", 1.0, 1e-5, most=4.0)
    again.charge("three", 9.0, 1e-5, most=0.0)
    assert journal.spent() == 13.0


def test_two_processes_that_pay_at_once_do_not_both_go_on(journal):
    other = SpentJournal(DataJournal(journal.journal.lines))
    append = journal.journal.lines.append

    def append_after_the_other(line):
        journal.journal.lines.append = append
        other.charge("other", 3.0, 1e-5, most=4.0)
        append(line)

    journal.journal.lines.append = append_after_the_other
    with pytest.raises(PolicyError, match="to 6, 3 of it in earlier runs"):
        journal.charge("one", 3.0, 1e-5, most=4.0)


@pytest.mark.parametrize("line", ["", "{", "[]", '{"spent": "x", "epsilon": "y"}'])
def test_a_damaged_journal_lets_nothing_through(line):
    with pytest.raises(ConfigError, match="is damaged"):
        SpentJournal(DataJournal(Kept([line]))).spent()
