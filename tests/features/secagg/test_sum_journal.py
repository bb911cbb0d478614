"""What a client's journal of its data lets a server have unmasked and evaluated, over all runs."""

import itertools
import random

import numpy as np
import pytest

from plait.errors import ConfigError, PolicyError
from plait.features.secagg.journal import SumJournal, fewest_apart
from plait.features.secagg.roster import Session
from plait.rounds.data_journal import DataJournal

HERE, THERE = b"a" * 32, b"b" * 32


class Kept(list):
    """Lines in memory."""

    def read(self):
        return list(self)


@pytest.fixture
def journal():
    return SumJournal(DataJournal(Kept()), least=3)


def session(run="one", purpose="train", number=1):
    return Session(run.encode().ljust(16)[:16], purpose, number, b"t" * 16)


def unmask(journal, clients, *, received=HERE, **where):
    journal.check_open(session(**where))
    journal.check_sum(session(**where), received, list(clients))
    journal.note_sum(session(**where), received, list(clients))


def test_a_round_is_unmasked_once_also_by_a_process_that_starts_anew(journal):
    unmask(journal, "abcde", number=2)
    for number in (1, 2):
        with pytest.raises(PolicyError, match="was unmasked before"):
            SumJournal(DataJournal(journal.journal.lines), 3).check_open(session(number=number))
    journal.check_open(session(number=3))
    journal.check_open(session(purpose="evaluate"))


@pytest.mark.parametrize("clients", ["abcd", "abc", "abcdef", "abcdx"])
def test_sums_from_one_adapter_do_not_differ_in_few_clients_whatever_the_run_is_called(journal, clients):
    unmask(journal, "abcde")
    with pytest.raises(PolicyError, match=r"differs from an earlier one in \d clients, expected at least 3"):
        unmask(journal, clients, run="two")
    unmask(journal, "abcde", run="two")
    unmask(journal, clients, run="two", number=2, received=THERE)


def test_sums_that_differ_in_as_many_clients_as_a_sum_must_have_are_unmasked(journal):
    unmask(journal, "abcdefgh")
    unmask(journal, "abcde", run="two")


def test_several_sums_do_not_give_one_client_together():
    """Each two differ in four clients: the first two less the third are twice the part of one."""
    journal = SumJournal(DataJournal(Kept()), least=3)
    unmask(journal, "abcd")
    unmask(journal, "aefg", run="two")
    with pytest.raises(PolicyError, match="with earlier ones the masked sum gives that of 1 clients"):
        unmask(journal, "bcdefg", run="three")


def test_evaluations_do_not_differ_in_few_clients_whatever_the_adapter(journal):
    unmask(journal, "abcdefgh", purpose="evaluate", number=0)
    with pytest.raises(PolicyError, match="differs from an earlier one in 1 clients"):
        unmask(journal, "abcdefg", purpose="evaluate", received=THERE)
    unmask(journal, "abcde", purpose="evaluate", received=THERE)


def test_an_adapter_is_evaluated_again_for_the_same_clients_alone(journal):
    unmask(journal, "abcdefgh", purpose="evaluate", number=0)
    with pytest.raises(PolicyError, match="was evaluated before with other clients"):
        unmask(journal, "abcde", purpose="evaluate", run="two", number=0)
    unmask(journal, "abcdefgh", purpose="evaluate", run="two", number=0)


def test_a_sum_of_fewer_clients_than_the_policy_says_is_not_unmasked():
    with pytest.raises(PolicyError, match=r"has 4 clients, expected at least 5.*lower min-masked-clients"):
        unmask(SumJournal(DataJournal(Kept()), least=5), "abcd")


@pytest.mark.parametrize("line", ["", "{", "[]", '{"unmasked": "train"}'])
def test_a_damaged_journal_lets_nothing_through(line):
    with pytest.raises(ConfigError, match="is damaged"):
        SumJournal(DataJournal(Kept([line])), 3).check_open(session())


def test_sums_that_give_two_clients_together_are_found_in_any_order():
    """Each two differ in three clients or more, and no row of their echelon form has fewer."""
    sums = [frozenset(each) for each in ("adij", "adghj", "bdfghij", "abcfgh")]
    assert {fewest_apart(order) for order in itertools.permutations(sums)} == {_fewest_by_search(sums)} == {2}


def test_the_fewest_clients_of_a_part_are_those_of_a_search():
    generator = random.Random(5)
    found = set()
    for _ in range(300):
        names = "abcdefg"
        sums = [frozenset(generator.sample(names, generator.randint(3, 7))) for _ in range(generator.randint(1, 5))]
        expected = _fewest_by_search(sums)
        found.add(expected)
        assert min(fewest_apart(sums), 3) == min(expected, 3), sums
    assert {1, 2, 3} <= found


def _fewest_by_search(sums):
    """The smallest set of clients that a combination of the sums is of, by the rank of what is left without it."""
    names = sorted(frozenset().union(*sums))
    matrix = np.array([[float(name in clients) for name in names] for clients in sums])
    rank = np.linalg.matrix_rank(matrix)
    for count in range(1, len(names) + 1):
        for part in itertools.combinations(range(len(names)), count):
            others = [place for place in range(len(names)) if place not in part]
            # A combination that has nothing outside the part: so many more rows than the rest has rank.
            if np.linalg.matrix_rank(matrix[:, others]) < rank:
                return count
    raise AssertionError("a sum has a part in itself")
