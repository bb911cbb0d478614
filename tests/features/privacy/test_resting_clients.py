"""Clients that rest between two rounds of theirs: who takes part, what is paid, kills."""

import hashlib
import itertools

import pytest

from plait.errors import PeerError
from plait.features.privacy.audit import check_privacy
from plait.features.privacy.mechanism import ClientPrivacy, multiplier_for
from plait.features.privacy.private_rounds import PrivateRounds
from plait.features.privacy.rests import Rests
from plait.rounds.channel import Purpose
from plait.rounds.ledger import read_events
from plait.rounds.run_view import RunView
from tests.features.privacy.test_private_rounds import killed_once_intended


def privacy_of(rests, *, clients: int = 2) -> ClientPrivacy:
    multiplier = multiplier_for(8.0, 1e-5, rests.rounds, rests)
    return ClientPrivacy(multiplier, 1e-5, 8.0, clients, 0.5, 0.5, 0.2, rests)


def begin(federate, fake_model, rests, *, names=4, cohort=2, **more):
    models = {f"c{number:02}": fake_model(number, 3) for number in range(names)}
    privacy = privacy_of(rests, clients=cohort)
    return federate(models, cohort_size=cohort, rounds=rests.rounds, privacy=privacy, **more)


def gaps(events) -> list[int]:
    rounds: dict[str, list[int]] = {}
    for number, clients in sorted(RunView.after(events).participants.items()):
        for client in clients:
            rounds.setdefault(client, []).append(number)
    return [b - a for each in rounds.values() for a, b in itertools.pairwise(each)]


class Kill(Exception):
    """The process ends here."""


@pytest.mark.slow
def test_clients_rest_in_a_long_run_with_dropouts_and_kills(federate, fake_model):
    federation = begin(federate, fake_model, Rests(4, 24), names=14, cohort=3)
    left = {5: "before c00", 11: "", 18: ""}

    def answer(asked, reply):
        drawn = hashlib.sha256(f"{asked.client} {asked.round}".encode()).digest()[0]
        return "left" if asked.purpose is Purpose.TRAIN and drawn < 50 else reply

    def before(asked):
        if asked.purpose is Purpose.TRAIN and left.pop(asked.round, None) is not None:
            raise Kill

    federation.channel.tamper, federation.channel.before = answer, before
    for number in (5, 11, 18):
        with pytest.raises(Kill):
            federation.run()
        assert federation.events[-1]["event"] != "run_finished"
        federation.channel.gone = {100 + number % 14}
    state = federation.run()
    events = read_events(federation.path / "ledger.jsonl")
    assert state.round == 24
    assert len(federation.of_kind("update_refused")) > 5
    assert min(gaps(events)) == 4
    assert sum(len(each) for each in RunView.after(events).participants.values()) > 60
    assert check_privacy(events).epsilon == pytest.approx(8)
    spent = [event["epsilon"] for event in federation.of_kind("privacy_spent")]
    assert spent == sorted(spent)
    # A client is in one of the first four rounds at most, and then in one of each four.
    assert spent[0] == spent[3] < spent[4] < 5 < spent[-1]


def test_a_cohort_that_cannot_be_filled_is_smaller_and_says_so_and_too_few_end_the_run(federate, fake_model):
    federation = begin(federate, fake_model, Rests(3, 4), names=6, quorum=2)
    federation.channel.gone = {100}
    with pytest.raises(
        PeerError, match=r"round 3 got 1 usable updates .*; 4 may not take part yet, because dp-min-sep"
    ):
        federation.run()
    assert federation.of_kind("round_started")[2]["resting"] == 4
    assert len(federation.of_kind("round_started")[2]["cohort"]) == 1


def test_a_server_whose_clients_come_and_go_waits_for_those_that_may_take_part(federate, fake_model):
    federation = begin(federate, fake_model, Rests(3, 4), names=6, quorum=2)
    channel = federation.channel
    channel.open_ended = True
    busy: set[str] = set()

    def before(asked):
        if asked.purpose is Purpose.TRAIN:
            busy.add(asked.client)
        if asked.purpose is Purpose.TRAIN and asked.round == 2 and len(busy) == 4:
            channel.gone = {next(node for node, name in channel.names.items() if name not in busy)}

    channel.before, channel.wait = before, lambda _: channel.gone.clear()
    assert federation.run().round == 4
    waited = federation.of_kind("waiting_for_clients")
    assert [(event["fit"], event["wanted"]) for event in waited] == [(5, 6)]
    assert set(gaps(read_events(federation.path / "ledger.jsonl"))) == {3}
    assert all(len(event["cohort"]) == 2 for event in federation.of_kind("round_started"))


@pytest.mark.slow
def test_a_run_killed_anywhere_goes_on_to_the_same_noise(federate, fake_model, snapshots_of):
    snapshots = snapshots_of(begin(federate, fake_model, Rests(2, 4), wire="bf16"))
    expected = snapshots.run()
    for where, killed in snapshots.killed[::7]:
        assert killed.run().adapter.digest() == expected.adapter.digest(), where
        assert [event["round"] for event in killed.of_kind("noise_intended")] == [1, 2, 3, 4], where


def test_noise_is_not_drawn_again_for_other_updates(federate, fake_model, tmp_path):
    federation = begin(federate, fake_model, Rests(2, 4))
    killed = killed_once_intended(federation, tmp_path, 2)
    for stored in killed.path.glob("spool/round-000002/*.envelope"):
        stored.unlink()
    killed.models = {name: fake_model(-9, 7) for name in killed.models}
    killed.channel = killed._connect()
    assert killed.run().round == 1
    assert [event["round"] for event in killed.of_kind("noise_intended")] == [1, 2]
    (ended,) = killed.of_kind("ended_early")
    assert "the noise of round 2 was drawn for other updates" in ended["reason"]
    assert killed.run().round == 1


def test_an_update_that_comes_too_soon_stops_the_run(federate, fake_model, monkeypatch):
    federation = begin(federate, fake_model, Rests(2, 4))
    monkeypatch.setattr(
        "plait.rounds.cohort.choose_cohort", lambda clients, size, **_: (tuple(sorted(federation.models))[:2], ())
    )
    with pytest.raises(
        PeerError, match="update of 'c00' in round 2 comes too soon after its last, expected at least 2"
    ):
        federation.run()
    assert len(federation.of_kind("noise_intended")) == 1


def test_a_ledger_whose_clients_did_not_rest_is_refused(federate, fake_model, monkeypatch):
    federation = begin(federate, fake_model, Rests(2, 4))
    monkeypatch.setattr(PrivateRounds, "resting", lambda self, number: frozenset())
    federation.run()
    events = read_events(federation.path / "ledger.jsonl")
    with pytest.raises(PeerError, match=r"'c0\d' takes part in round \d, expected not before round \d"):
        check_privacy(events)
