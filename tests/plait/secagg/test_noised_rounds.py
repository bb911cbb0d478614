"""Differential privacy under masks: every client adds its share of the noise, and the server has no sum without it."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from plait.adapters import Layout, subtract
from plait.cli.privacy import check_privacy
from plait.errors import PeerError, PolicyError
from plait.ledger.ledger import read_events
from plait.policy import Policy
from plait.privacy.client import ClientCharge
from plait.privacy.mechanism import ClientPrivacy, multiplier_for
from plait.rounds.channel import Purpose
from plait.rounds.client_pipeline import ClientContext
from plait.rounds.run_plan import TaskSettings
from plait.rounds.terms import AgreedTerms
from plait.secagg.rounds import check_grid, privacy_of_clients
from plait.secagg.sums import NOISED, TRAINING, MaskedGrid, decode_figures
from plait.trust.masks import Ring
from plait.wire.messages import Refusal, decode_reply
from tests.plait.rounds import conftest
from tests.plait.secagg.test_masked_rounds import NAMES, killed_in_unmasking, stage_of, summed
from tests.plait.secagg.test_masked_rounds import begin as begin_masked

FIXED = ClientPrivacy(
    noise_multiplier=multiplier_for(8.0, 1e-5, 2, guaranteed=4), delta=1e-5, epsilon=8.0, clients=5, clip_norm=0.5,
    quantile=0.5, largest_step=0.2,
)  # fmt: skip
ADAPTIVE = replace(FIXED, clip_norm=None)


def begin(federate, fake_model, count=5, privacy=FIXED, **more):
    return begin_masked(federate, fake_model, count, privacy=privacy, keep_updates=True, **more)


@pytest.fixture
def noised(monkeypatch):
    """What every client sent before any mask, by round and place among those that made one: numbers and count."""
    found = []
    make = MaskedGrid.noised

    def watched(self, delta, privacy, **more):
        numbers, counted = make(self, delta, privacy, **more)
        found.append((self.round, delta, numbers, counted))
        return numbers, counted

    monkeypatch.setattr(MaskedGrid, "noised", watched)
    return found


@pytest.mark.parametrize("privacy", [FIXED, ADAPTIVE], ids=["fixed clip", "adaptive clip"])
def test_the_sum_is_that_of_the_noised_numbers_and_the_server_learns_nothing_else(
    federate, fake_model, noised, privacy
):
    federation = begin(federate, fake_model, privacy=privacy)
    federation.run()
    assert [event["round"] for event in federation.of_kind("noise_intended")] == [1, 2]
    for number in (1, 2):
        stored = summed(federation, number)
        made = [(numbers, counted) for at, _, numbers, counted in noised if at == number]
        assert len(made) == 5
        ring = Ring(stored.bits)
        np.testing.assert_array_equal(stored.numbers, ring.lifted(ring.reduced(sum(numbers for numbers, _ in made))))
        # No sum wrapped around.
        np.testing.assert_array_equal(stored.numbers, sum(numbers for numbers, _ in made))
        assert stored.figures.astype(np.int64).tolist() == [sum(counted for _, counted in made)]
        assert len(stored.figures) == len(NOISED)
        assert any(counted for _, counted in made) == (privacy is ADAPTIVE)
    assert not federation.of_kind("evaluated")
    spent = federation.of_kind("privacy_spent")
    assert [event["charges"] for event in spent] == [1, 2]
    assert spent[-1]["epsilon"] == pytest.approx(8.0, rel=1e-6)
    for (number, charged), intended in zip(enumerate(spent, 1), federation.of_kind("noise_intended"), strict=True):
        within = sum(counted for at, _, _, counted in noised if at == number)
        within /= federation.privacy.count_shares.sensitivity if privacy is ADAPTIVE else 1
        assert charged["clip_norm"] == pytest.approx(federation.privacy.next_clip(intended["clip_norm"], within, 5))
    (promised,) = federation.of_kind("privacy_started")
    assert (promised["guaranteed"], promised["key_check"]) == (4, "")
    assert not (federation.path / "noise.key").exists()
    check_privacy(read_events(federation.path / "ledger.jsonl"))


def test_the_noise_of_a_round_is_that_of_the_guaranteed_clients_and_of_no_fewer(federate, fake_model, monkeypatch):
    layout = Layout.of({"layer.lora_A.weight": [2, 10_000], "layer.lora_B.weight": [3, 2]})
    monkeypatch.setattr(conftest, "layout_of", lambda rank: layout)
    models = {name: fake_model(4.0, 3, layout=layout) for name in NAMES}
    federation = federate(models, masked=True, privacy=FIXED, rounds=1)
    lost = ["carol"]
    federation.channel.silent = lambda asked: asked.client in lost and asked.purpose is Purpose.TRAIN
    released = subtract(federation.run().adapter, federation.initial).flat.astype(np.float64)
    # Four of five are left, as few as may be: just the promised noise; the mean update is 0.5 long at most.
    promised = federation.privacy.noise_multiplier * 0.5 / 4
    assert released.std() == pytest.approx(promised, rel=0.03)


def test_below_the_threshold_nothing_is_released_or_paid_for(federate, fake_model):
    federation = begin(federate, fake_model)
    federation.channel.silent = lambda asked: asked.client in ("carol", "dave") and stage_of(asked) == "train"
    with pytest.raises(PeerError, match="3 clients sent a masked update, expected at least 4"):
        federation.run()
    assert not federation.of_kind("sum_unmasked", "noise_intended", "privacy_spent")


def test_a_run_ends_before_the_round_that_would_exceed_its_epsilon(federate, fake_model):
    federation = begin(federate, fake_model, rounds=4)
    federation.run()
    assert [event["round"] for event in federation.of_kind("round_finished")] == [1, 2]
    (ended,) = federation.of_kind("ended_early")
    assert "would exceed epsilon 8" in ended["reason"]


def test_a_server_killed_once_the_list_is_signed_goes_on_to_the_same_bits_and_pays_once(federate, fake_model, tmp_path):
    federation = begin(federate, fake_model, 3)
    killed = killed_in_unmasking(federation, tmp_path / "killed")
    killed.run()
    np.testing.assert_array_equal(summed(killed, 1).numbers, summed(federation, 1).numbers)
    assert [event["round"] for event in killed.of_kind("noise_intended")] == [1, 2]


def test_the_rounds_are_recomputed_from_their_sums(federate, fake_model):
    federation = begin(federate, fake_model, 3, privacy=ADAPTIVE)
    federation.run()
    assert federation.recomputed() == 2
    federation.privacy = replace(federation.privacy, guaranteed=2)
    with pytest.raises(PeerError, match="guaranteed clients"):
        federation.recomputed()


@pytest.mark.slow
def test_noised_records_leave_under_masks_and_nothing_else_does(federate, fake_model):
    settings = {"record_delta": 1e-5, "record_epsilon": 8.0, "total_steps": 4}
    federation = begin(federate, fake_model, 3, privacy=None, settings=settings)
    federation.run()
    for number in (1, 2):
        told = decode_figures(summed(federation, number).figures, TRAINING)
        assert set(told) == {"square"}
        assert told["square"] > 0
    assert not federation.of_kind("evaluated")
    assert [event["epsilon"] for event in federation.of_kind("privacy_spent")] == [8.0, 8.0]
    spent = check_privacy(read_events(federation.path / "ledger.jsonl"))
    assert spent
    assert not spent.by_client


class TestClientsRefuse:
    """What a server could ask for to get less noise."""

    def test_a_grid_of_another_noise_or_clip_norm(self, federate, fake_model):
        settings = begin(federate, fake_model).plan.settings
        privacy = privacy_of_clients(settings)
        shares = privacy.shares(64)
        bits, unit = shares.bits(5, 64), 0.5 / shares.sensitivity
        right = {"bits": bits, "unit": unit, "clients": 5}
        check_grid(privacy, 64, **right)
        for wrong in ({"bits": bits + 1}, {"unit": 2 * unit}, {"clients": 6}):
            with pytest.raises(PeerError, match="expected"):
                check_grid(privacy, 64, **(right | wrong))
        # An adaptive clip norm is the server's to say: noise is a multiple of it, whatever it is.
        check_grid(privacy_of_clients(replace(settings, client_clip=0.0)), 64, **(right | {"unit": 3 * unit}))

    def test_losses_and_updates_without_masks(self, federate, fake_model):
        federation = begin(federate, fake_model, 3)
        asked = []
        federation.channel.before = asked.append
        federation.run()
        participant = federation.channel.participants[100]
        in_the_open = replace(federation.plan.settings, secure_aggregation=False)
        with pytest.raises(PolicyError, match="without masks"):
            ClientCharge(ClientContext("alice", participant.memory), federation.privacy).before(
                SimpleNamespace(settings=in_the_open)
            )
        train = next(each for each in asked if each.purpose is Purpose.TRAIN)
        reply = participant.answer(train.task)
        refusal = decode_reply(reply, max_bytes=len(reply))
        assert isinstance(refusal, Refusal)
        # Words could have counts that no noise covers.
        assert refusal.detail == "this client's log has the reason"
        assert "without a masked sum" in participant.refusal

    @pytest.mark.parametrize("most", [0, 1])
    def test_other_noise_on_the_same_update_more_often_than_the_policy_says(self, federate, fake_model, noised, most):
        """Others may have unmasked the attempt before: each costs."""
        federation, failed = begin(federate, fake_model, 3, rounds=1, attempts=2), set()
        for participant in federation.channel.participants.values():
            policy = Policy(min_examples=1, min_tokens=1, max_repeats=most)
            tasks = TaskSettings(federation.plan, federation.rule, new_factors=False)
            terms = AgreedTerms(participant.name, tasks, (federation.spec,), federation.spec, policy)
            participant.way = federation.client_way(participant.name, terms=terms)

        def fail(asked, reply):
            hit = asked.client == "carol" and stage_of(asked) == "signatures" and asked.client not in failed
            failed.update([asked.client] * hit)
            return reply[:-1] if hit else reply

        federation.channel.tamper = fail
        if most:
            federation.run()
        else:
            with pytest.raises(PeerError, match="0 clients sent a masked update"):
                federation.run()
            assert "asked for again with other noise" in federation.channel.participants[100].refusal
        assert len(noised) == 3 * (1 + most)
        for (_, _, one, _), (_, _, other, _) in zip(noised, noised[3:], strict=False):
            assert not np.array_equal(one, other), "an update is sent again under the same noise"
