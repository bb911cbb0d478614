"""A private run: what it releases, what it pays for, and what no client and no kill can change about that."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from plait.cli.privacy import check_privacy
from plait.errors import ConfigError, PeerError
from plait.ledger.events import parse_event
from plait.ledger.ledger import read_events
from plait.ledger.privacy import NoiseIntended, PrivacySpent
from plait.privacy import run as private_fold
from plait.privacy.mechanism import ClientPrivacy, multiplier_for
from plait.privacy.noise import RunKey
from plait.rounds.channel import Purpose
from tests.killing import different_stories

FIXED = ClientPrivacy(
    noise_multiplier=multiplier_for(8.0, 1e-5, 2), delta=1e-5, epsilon=8.0, clients=2, clip_norm=0.5, quantile=0.5,
    largest_step=0.2,
)  # fmt: skip
ADAPTIVE = replace(FIXED, clip_norm=None)
CASES = {
    "fixed clip": {"bits": "bf16", "privacy": FIXED},
    "adaptive clip, one bit": {"bits": "1", "privacy": ADAPTIVE},
    "rolora trains one side at a time": {"rule": "rolora", "privacy": FIXED},
    "fedsa keeps a side at the clients": {"rule": "fedsa", "privacy": FIXED},
    "fedsvd turns": {"rule": "fedsvd", "privacy": FIXED},
    "fedadam": {"optimizer": "fedadam", "privacy": ADAPTIVE},
}


def begin(federate, fake_model, case, **more):
    return federate({"alice": fake_model(1, 3), "bob": fake_model(4, 7)}, **{**CASES[case], **more})


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_private_run_killed_anywhere_goes_on_to_the_same_bits_and_pays_once(federate, fake_model, snapshots_of, case):
    snapshots = snapshots_of(begin(federate, fake_model, case))
    expected = snapshots.run()
    assert len(snapshots.killed) > 20
    for where, killed in snapshots.killed:
        state = killed.run()
        assert state.adapter.digest() == expected.adapter.digest(), where
        assert state.clip_norm == expected.clip_norm, where
        assert [event["round"] for event in killed.of_kind("noise_intended")] == [1, 2], where
        assert [event["round"] for event in killed.of_kind("privacy_spent")] == [1, 2], where
        assert killed.of_kind("noise_intended")[-1]["epsilon"] == pytest.approx(8.0, rel=1e-6), where
        assert check_privacy(read_events(killed.path / "ledger.jsonl")).charges == 2, where
        assert not different_stories(killed.events, snapshots.federation.events), where


def killed_once_intended(federation, tmp_path, number):
    """A copy of the run as a kill right after the intent of a round leaves it."""
    copies = []

    def watch(where):
        if len(federation.of_kind("noise_intended")) == number and not copies:
            shutil.copytree(federation.path, tmp_path / "killed")
            copies.append(federation.copy(tmp_path / "killed"))

    federation.run(watch=watch)
    return copies[0]


def test_more_updates_than_were_intended_are_not_waited_for(federate, fake_model, tmp_path):
    """A round whose noise is paid for is released from just the updates that it was paid for."""
    federation = begin(federate, fake_model, "fixed clip", quorum=1)
    federation.channel.silent = lambda asked: (asked.client, asked.round) == ("bob", 1)
    federation.plan = replace(federation.plan, deadline_s=0.05)
    killed = killed_once_intended(federation, tmp_path, 1)
    state = killed.run()
    assert "bob" not in {asked.client for asked in killed.channel.asked if asked.round == 1}
    assert state.adapter.digest() == federation.published[-1].adapter.digest()
    assert len(killed.of_kind("noise_intended")) == 2


@pytest.mark.parametrize(("killed_in", "paid"), [(1, [1, 1]), (2, [1, 2])])
def test_other_updates_get_other_noise_and_a_second_charge_and_what_the_budget_cannot_pay_is_not_released(
    federate, fake_model, tmp_path, killed_in, paid
):
    federation = begin(federate, fake_model, "fixed clip")
    killed = killed_once_intended(federation, tmp_path, killed_in)
    (killed.path / f"spool/round-{killed_in:06}/bob.envelope").unlink()
    killed.models = {**federation.models, "bob": fake_model(-9, 7)}
    killed.channel = killed._connect()
    for _ in range(2):
        assert killed.run().round == 1
        assert [event["round"] for event in killed.of_kind("noise_intended")] == paid
        assert len({event["commitment"] for event in killed.of_kind("noise_intended")}) == 2
        (ended,) = killed.of_kind("ended_early")
        assert ended["round"] == 1
        assert "would exceed epsilon 8" in ended["reason"]
        assert killed.published[-1].round == 1


def test_a_run_with_a_multiplier_has_no_budget_to_end_it(federate, fake_model):
    federation = begin(federate, fake_model, "fixed clip", privacy=replace(FIXED, epsilon=None), rounds=4)
    assert federation.run().round == 4
    spent = [event["epsilon"] for event in federation.of_kind("privacy_spent")]
    assert spent == sorted(spent)
    assert spent[-1] > 8


def two_of_six(federate, fake_model, **more):
    models = {f"client-{number}": fake_model(number, 3) for number in range(6)}
    return federate(models, bits="bf16", privacy=FIXED, cohort_size=2, quorum=2, rounds=1, **more)


def test_nobody_counts_because_of_what_another_client_sent(federate, fake_model):
    """Refused, failed or late: none is replaced, and an attempt that too few answered is made with the same clients."""
    federation = two_of_six(federate, fake_model, attempts=2)
    federation.channel.open_ended = True
    federation.channel.tamper = lambda asked, reply: (
        "gone" if asked.purpose is Purpose.TRAIN and not federation.of_kind("round_missed") else reply
    )
    federation.run()
    first, second = federation.of_kind("round_started")
    assert first["cohort"] == second["cohort"]
    asked = {asked.client for asked in federation.channel.asked if asked.purpose is Purpose.TRAIN}
    assert asked == set(first["cohort"])


def test_a_round_that_a_kill_cut_short_goes_on_with_its_clients(federate, fake_model, snapshots_of):
    federation = two_of_six(federate, fake_model)
    snapshots = snapshots_of(federation)
    snapshots.run()
    (expected,) = federation.of_kind("round_started")
    begun = [killed for _, killed in snapshots.killed if killed.of_kind("round_started")]
    assert len(begun) > 5
    for number, killed in enumerate(begun):
        # Others are there than before, beside those that it had asked.
        away = sorted(federation.models.keys() - set(expected["cohort"]))[number % 3 :]
        killed.models = {name: model for name, model in killed.models.items() if name not in away}
        killed.channel = killed._connect()
        killed.run()
        assert {tuple(event["cohort"]) for event in killed.of_kind("round_started")} == {tuple(expected["cohort"])}


def test_the_rule_sees_the_noised_mean_alone(federate, fake_model, monkeypatch):
    federation = begin(federate, fake_model, "fixed clip")
    seen = []
    begun = federation.rule.algorithm

    class Spy:
        def __init__(self, context):
            self._inner = begun(context)

        def add(self, contribution):
            seen.append((contribution.client, contribution.delta.flat.copy()))
            self._inner.add(contribution)

        def finish(self):
            return self._inner.finish()

    federation.rule = replace(federation.rule, algorithm=Spy)
    federation.run()
    assert [name for name, _ in seen] == ["the noised mean"] * 2
    expected = FIXED.update_multiplier * 0.5 / 2
    assert np.std([flat for _, flat in seen]) == pytest.approx(expected, rel=0.6)


def test_sides_that_no_client_trains_get_no_noise(federate, fake_model):
    federation = begin(federate, fake_model, "fixed clip", rule="ffa")
    state = federation.run()
    (pair,) = federation.ranks.master.geometry.pairs
    np.testing.assert_array_equal(pair.a_of(state.adapter.flat), pair.a_of(federation.initial.flat))
    assert not np.array_equal(pair.b_of(state.adapter.flat), pair.b_of(federation.initial.flat))


FORBIDDEN = {
    "train_loss", "first_loss", "train_s", "codec_s", "distortion", "signed", "signature",
    "examples", "tokens", "norms", "digest", "diagnostics", "clipped", "weight_capped", "detail", "by_client", "loss",
}  # fmt: skip


def test_no_client_is_asked_for_losses_and_no_figure_that_one_computed_is_kept(federate, fake_model, monkeypatch):
    """Also: the intent is on disk before the noise exists."""
    federation = begin(federate, fake_model, "fixed clip")
    finish, intended = private_fold.PrivateMean.finish, []
    watched = lambda mean: intended.append(len(federation.of_kind("noise_intended"))) or finish(mean)  # noqa: E731
    monkeypatch.setattr(private_fold.PrivateMean, "finish", watched)
    federation.channel.tamper = lambda asked, reply: (
        "no update today" if (asked.client, asked.round, asked.purpose) == ("bob", 2, Purpose.TRAIN) else reply
    )
    federation.plan = replace(federation.plan, quorum=1)
    state = federation.run()
    assert intended == [1, 2]
    assert {asked.purpose for asked in federation.channel.asked} == {Purpose.DESCRIBE, Purpose.TRAIN}
    assert (state.norms, state.accepted) == ((), None)
    assert {"update_received", "update_refused", "clients_described", "reply_received"} <= {
        event["event"] for event in federation.events
    }
    for event in federation.events:
        if event["event"] == "run_started":
            continue
        for key in FORBIDDEN:
            assert not event.get(key), event
        for client in event.get("clients", []) if isinstance(event.get("clients"), list) else []:
            assert client == {
                "client": client["client"], "rank": 2, "train_examples": 0, "train_tokens": 0, "held_out_examples": 0,
                "held_out_tokens": 0, "histogram": {}, "cut_examples": 0, "left_out_examples": 0,
                "repeated_examples": 0, "judge_examples": 0, "judge_tokens": 0,
            }  # fmt: skip
        if event["event"] == "update_received":
            assert event["uplink_bytes"] == 1000
        if event["event"] == "reply_received":
            assert event["uplink_bytes"] == 0
    assert (federation.path / "noise.key").read_text().strip() not in (federation.path / "ledger.jsonl").read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_key_and_the_updates_give_the_noise_bit_for_bit(federate, fake_model, case):
    federation = begin(federate, fake_model, case, keep_updates=True)
    federation.run()
    assert federation.recomputed() == 2
    (federation.path / "noise.key").unlink()
    RunKey.create(federation.path / "noise.key")
    with pytest.raises(PeerError, match="noise key gives"):
        federation.recomputed()


def test_a_stored_update_that_was_exchanged_is_found(federate, fake_model):
    federation = begin(federate, fake_model, "fixed clip", keep_updates=True)
    federation.run()
    folder = federation.path / "spool" / "round-000001"
    other = begin(federate, fake_model, "fixed clip", keep_updates=True)
    other.models = {**other.models, "bob": fake_model(-3, 7)}
    other.channel = other._connect()
    other.run()
    shutil.copy(other.path / "spool" / "round-000001" / "bob.envelope", folder / "bob.envelope")
    with pytest.raises(PeerError, match="noise of round 1 was intended for other updates"):
        federation.recomputed()


def test_a_ledger_that_understates_what_was_spent_is_refused(federate, fake_model):
    federation = begin(federate, fake_model, "fixed clip")
    federation.run()
    events = read_events(federation.path / "ledger.jsonl")
    assert check_privacy(events).epsilon == pytest.approx(8.0)
    without = [event for event in events if not (isinstance(event, NoiseIntended) and event.round == 2)]
    with pytest.raises(PeerError, match=r"states 2 draws of noise, expected 1|finished without an intent"):
        check_privacy(without)
    for kind, figure, match in (
        (NoiseIntended, "epsilon", r"epsilon of round 1 is 1e-07, expected 5\."),
        (PrivacySpent, "epsilon", r"epsilon of round 1 is 1e-07, expected 5\."),
        (PrivacySpent, "delta", r"delta of round 1 is 1e-07"),
    ):
        less = [event.model_copy(update={figure: 1e-7}) if isinstance(event, kind) else event for event in events]
        with pytest.raises(PeerError, match=match):
            check_privacy(less)
    twice = [
        *events,
        parse_event({"event": "noise_intended", "round": 2, "commitment": "x", "clip_norm": 1.0, "epsilon": 10.3}),
    ]
    with pytest.raises(PeerError, match=r"epsilon of round 2 is 10\.\d+, expected"):
        check_privacy(twice)


@pytest.mark.parametrize("figure", ["noise_multiplier", "delta", "epsilon"])
def test_a_ledger_that_promises_other_noise_than_the_settings_give_is_not_recomputed(federate, fake_model, figure):
    federation = begin(federate, fake_model, "fixed clip")
    federation.run()
    federation.privacy = replace(federation.privacy, **{figure: 2 * getattr(federation.privacy, figure)})
    with pytest.raises(
        PeerError, match=f"the ledger promises {figure.replace('_', ' ')} .* as the run's settings give"
    ):
        federation.recomputed()


def test_a_run_does_not_go_on_without_its_key(federate, fake_model, tmp_path):
    killed = killed_once_intended(begin(federate, fake_model, "fixed clip"), tmp_path, 1)
    (killed.path / "noise.key").unlink()
    with pytest.raises(ConfigError, match="without its noise key"):
        killed.run()


def test_the_seed_decides_no_noise(federate, fake_model):
    """Two runs with the same seed, clients and data: the same updates in round 1, independent noise."""
    first, second = (begin(federate, fake_model, "fixed clip", rounds=1, keep_updates=True) for _ in range(2))
    one, two = (federation.run().adapter.flat for federation in (first, second))
    stored = [(run.path / "spool/round-000001/bob.envelope").read_bytes()[:64] for run in (first, second)]
    assert stored[0] == stored[1]
    assert math.dist(one, two) > 0.1
