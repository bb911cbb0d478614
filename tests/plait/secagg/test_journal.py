"""What a client's journal of its data lets a server have unmasked and evaluated, over all runs."""

import random

import pytest

from plait.errors import ConfigError, PeerError, PolicyError
from plait.guarantees import LEAST_CLIENTS, least_roster, least_survivors
from plait.rounds.channel import Patience, Purpose
from plait.secagg.journal import SumJournal, evaluators_of
from plait.wire.masked_roster import MaskedAttempt
from tests.plait.privacy.test_client import Kept

HERE, THERE = b"a" * 32, b"b" * 32


@pytest.fixture
def journal():
    return SumJournal(Kept(), least=3)


def session(run="one", purpose="train", number=1):
    return MaskedAttempt(run.encode().ljust(16)[:16], purpose, number, b"t" * 16)


def unmask(journal, clients, *, received=HERE, **where):
    journal.check_open(session(**where))
    journal.check_sum(session(**where), received, list(clients))
    journal.note_sum(session(**where), received, list(clients))


def test_a_round_is_unmasked_once_also_by_a_process_that_starts_anew(journal):
    unmask(journal, "abcde", number=2)
    for number in (1, 2):
        with pytest.raises(PolicyError, match="was unmasked before"):
            SumJournal(Kept(journal.journal.lines), 3).check_open(session(number=number))
    journal.check_open(session(number=3))
    journal.check_open(session(purpose="evaluate"))


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
@pytest.mark.parametrize("clients", ["abcdefg", "abcdefgx", "abcd", "abcdexyz", "abcxyz", "abcdefghi"])
def test_sums_of_the_same_numbers_are_of_one_set_or_one_well_within_it_whatever_the_run_is_called(
    journal, clients, purpose
):
    unmask(journal, "abcdefgh", purpose=purpose)
    with pytest.raises(PolicyError, match=r"expected the same or, within it, at least 3 fewer and more than half"):
        unmask(journal, clients, run="two", purpose=purpose)
    unmask(journal, "abcde", run="two", purpose=purpose)
    unmask(journal, "abcdefgh", run="three", purpose=purpose)
    unmask(journal, "wxyz", run="four", purpose=purpose)


def test_losses_of_any_adapter_are_the_same_numbers_and_updates_from_another_are_not(journal):
    unmask(journal, "abcdefgh")
    unmask(journal, "abcdefg", run="two", received=THERE)
    unmask(journal, "abcdefgh", purpose="evaluate")
    with pytest.raises(PolicyError, match="several sums give the part of a few"):
        unmask(journal, "abcdefg", purpose="evaluate", run="two", received=THERE)


def test_in_one_run_no_client_is_left_out_more_often_than_the_policy_allows_however_the_adapter_moves(journal):
    journal.most = 2

    def sums(*cohorts, run="one"):
        for number, clients in enumerate(cohorts, 1):
            unmask(journal, clients, number=number, run=run, received=run[:2].encode() + bytes([number]) * 30)

    with pytest.raises(PolicyError, match=r"'e' would be in or out of the run's masked sums 3 times, .*allows 2"):
        sums(*("abcde", "abcd") * 3)
    # One that leaves for good with two others, as many as are lost on the way, and those that come late.
    sums("abcdefgh", "abcdefg", "abcdefgh", *["abcde"] * 9, "abcdefgh", run="two")
    sums("abcd", "abcde", "abcde", "abcdf", "abcde", run="three")


def test_a_sum_of_fewer_clients_than_the_policy_says_is_not_unmasked():
    with pytest.raises(PolicyError, match=r"has 4 clients, expected at least 5.*lower min-masked-clients"):
        unmask(SumJournal(Kept(), least=5), "abcd")


@pytest.mark.parametrize("line", ["", "{", "[]", '{"unmasked": "train"}'])
def test_a_damaged_journal_lets_nothing_through(line):
    with pytest.raises(ConfigError, match="is damaged"):
        SumJournal(Kept([line]), 3).check_open(session())


def invited(clients, *, earlier=(), order=b""):
    earlier = [frozenset(each) for each in earlier]
    return "".join(evaluators_of(sorted(clients), set(clients), earlier=earlier, declined=set(), least=3, order=order))


def test_the_clients_of_an_earlier_evaluation_are_invited_again_the_largest_first():
    assert invited("abcdefgh") == "abcdefgh"
    assert invited("abcdefghij", earlier=["abcdefgh"]) == "abcdefgh"
    assert invited("abcdefgh", earlier=["abcde", "abcdefgh", "abcd"]) == "abcdefgh"
    assert invited("abcdefg", earlier=["abcdefgh", "abcde"]) == "abcde"


@pytest.mark.slow
def test_whatever_comes_and_goes_no_journal_refuses_who_is_invited():
    generator, names = random.Random(3), "abcdefghijklmno"
    for _ in range(20):
        journals, earlier = {}, []
        for number in range(12):
            present = generator.sample(names, generator.randint(9, len(names)))
            chosen = invited(present, earlier=earlier, order=bytes([number]))
            session = MaskedAttempt(bytes(16), "evaluate", number, bytes(16))
            for name in chosen:
                journal = journals.setdefault(name, SumJournal(Kept(), LEAST_CLIENTS))
                journal.check_sum(session, bytes([number]) * 32, chosen)
                journal.note_sum(session, bytes([number]) * 32, chosen)
            earlier += [chosen] if chosen else []
        assert len(set(earlier)) > 1
        with pytest.raises(PolicyError):
            journal.check_sum(session, bytes(32), earlier[-1][1:])


@pytest.mark.parametrize("clients", range(3, 60))
def test_a_smaller_roster_makes_no_smaller_sum_and_no_two_lists_easier(clients):
    """Two lists need two thirds of a roster each, and a client that signs both departs from the protocol."""
    before, now = least_survivors(clients), least_roster(clients)
    assert now <= before
    assert least_survivors(now) >= least_survivors(before)
    assert 2 * least_survivors(now) - now >= 2 * least_survivors(before) - before
    assert all(least_survivors(more) >= least_survivors(before) for more in range(now, clients + 1))


NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")


@pytest.fixture
def coming_and_going(federate, fake_model):
    """Runs eight clients that keep journals, of whom some leave; gives the federation."""

    def run(leaves, journals, count=8, tamper=lambda asked, reply: reply, run_id=b"r" * 16, **more):
        models = {name: fake_model(float(place), 3 + place) for place, name in enumerate(NAMES[:count])}
        patience = Patience(gathering_s=0.0, again_s=0.0)
        federation = federate(models, masked=True, patience=patience, attempts=3, **more)
        federation.run_id = run_id
        channel = federation.channel
        channel.open_ended, channel.tamper = True, tamper
        nodes = {name: node for node, name in channel.names.items()}
        for participant in channel.participants.values():
            journal = Kept(journals.setdefault(participant.name, []))
            participant.way = federation.client_way(participant.name, journal=journal)

        def before(asked):
            channel.gone.clear()
            channel.gone.update(nodes[name] for name in leaves.get(asked.round, ()))

        channel.before = before
        federation.run()
        return federation

    return run


def evaluated(federation):
    sums = [event for event in federation.of_kind("sum_unmasked") if event["purpose"] == "evaluate"]
    assert [event["round"] for event in sums] == [event["round"] for event in federation.of_kind("evaluated")]
    return {event["round"]: len(event["evaluated_by"]) for event in sums}


@pytest.mark.slow
def test_every_round_is_evaluated_though_a_client_leaves_and_comes_back(coming_and_going):
    away = ["heidi"]
    federation = coming_and_going({2: away, 3: away}, {}, rounds=5, quorum=5)
    assert evaluated(federation) == {0: 8, 1: 8, 2: 5, 3: 5, 4: 8, 5: 8}
    assert not federation.of_kind("evaluation_missed", "update_refused")
    assert len({tuple(event["evaluated_by"]) for event in federation.of_kind("sum_unmasked")} - {()}) == 2


@pytest.mark.slow
def test_a_client_that_is_lost_in_an_evaluation_costs_one_attempt_at_it(coming_and_going):
    def tamper(asked, reply):
        return "gone" if (asked.client, asked.purpose, asked.round) == ("heidi", Purpose.EVALUATE, 2) else reply

    federation = coming_and_going({}, {}, tamper=tamper, rounds=3)
    assert evaluated(federation) == {0: 8, 1: 8, 2: 5, 3: 8}
    refused = [(event["client"], event["stage"]) for event in federation.of_kind("update_refused")]
    assert refused == [("heidi", "training"), *((name, "signatures") for name in NAMES[:-1])]


@pytest.mark.slow
def test_a_run_on_the_same_data_without_one_client_is_evaluated_too(coming_and_going):
    journals = {}
    for name in NAMES:
        journal = SumJournal(Kept(journals.setdefault(name, [])), LEAST_CLIENTS)
        journal.note_sum(MaskedAttempt(b"an earlier run!!", "evaluate", 0, bytes(16)), bytes(32), NAMES)
    federation = coming_and_going({}, journals, count=7, rounds=2)
    assert evaluated(federation) == {0: 5, 1: 5, 2: 5}
    assert {event["stage"] for event in federation.of_kind("update_refused")} == {"training"}


@pytest.mark.slow
@pytest.mark.parametrize("count", [6, 7])
def test_a_second_run_from_the_same_adapter_gives_no_sum_that_tells_of_one_or_two(coming_and_going, count):
    journals = {}
    coming_and_going({}, journals, rounds=1)
    if count == 6:
        with pytest.raises(PeerError, match="0 clients sent a masked update"):
            coming_and_going({}, journals, count=count, run_id=b"R" * 16, rounds=1)
    else:
        # Within the eight of the first run there are five.
        again = coming_and_going({}, journals, count=count, run_id=b"R" * 16, rounds=1)
        assert {event["clients"] for event in again.of_kind("sum_unmasked")} == {5}
    with pytest.raises(PeerError, match="0 clients offered keys"):
        coming_and_going({}, journals, rounds=1)


@pytest.mark.slow
def test_where_any_sum_would_tell_of_few_the_evaluation_is_left_out_and_asked_for_once(coming_and_going):
    federation = coming_and_going({2: ["erin"], 3: ["erin"]}, {}, count=5, rounds=4, quorum=3)
    assert evaluated(federation) == {0: 5, 1: 5, 4: 5}
    missed = federation.of_kind("evaluation_missed")
    assert [event["round"] for event in missed] == [2, 3]
    assert "any sum of losses would reveal a few clients" in missed[-1]["detail"]
    assert {event["round"] for event in federation.of_kind("update_refused")} == {2}
