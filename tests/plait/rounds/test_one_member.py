"""One member of a masked sum that departs from the protocol: what it can do to the model, and to the others' run."""

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from plait.adapters import Layout, norm, subtract
from plait.errors import PeerError
from plait.rounds.figures import TRAINING, encode_figures
from plait.rounds.masked_sum import Summed
from plait.rounds.run_state import initial_state

NAMES = ["alice", "bob", "carol", "dave", "mallory"]
WIDE = Layout.of({"layer.lora_A.weight": [2, 2_000], "layer.lora_B.weight": [3, 2]})
SQUARE = list(TRAINING).index("square")
ROUNDS = 5


class Lying:
    """A client's masks, under which it puts other numbers than its own."""

    def __init__(self, honest, change):
        self.honest, self.change, self.round = honest, change, 0

    def __getattr__(self, name):
        return getattr(self.honest, name)

    def masked(self, session, numbers, figures, *, received):
        if session.purpose == "train":
            self.round = session.round
            numbers, figures = self.change(np.array(numbers), np.array(figures), session.round)
        return self.honest.masked(session, numbers, figures, received=received)


def begin(federate, fake_model, monkeypatch, change=None, **more):
    """Five clients that agree on where to go, of whom mallory changes what it hides."""
    models = {name: fake_model(4.0 + place / 10, 3 + place, layout=WIDE) for place, name in enumerate(NAMES)}
    monkeypatch.setattr(sys.modules[fake_model.__module__], "layout_of", lambda _rank: WIDE)
    federation = federate(models, masked=True, rounds=ROUNDS, **more)
    if change:
        participant = federation.channel.participants[100 + NAMES.index("mallory")]
        participant._masking = Lying(participant._masking, change)
    return federation


def steps(federation):
    """How far each round moved the published adapter."""
    states = federation.published
    before = [federation.initial, *(state.adapter for state in states)]
    return [norm(subtract(after.adapter, was)) for was, after in zip(before, states, strict=False)]


def square_is(value):
    def change(numbers, figures, number):
        figures[SQUARE] = np.array([value], np.int64).astype(np.uint64)[0]
        return numbers, figures

    return change


@pytest.mark.parametrize("value", [1 << 48, (1 << 62), -(1 << 48), -(1 << 62)], ids=["long", "longest", "none", "less"])
def test_a_lie_about_lengths_changes_no_round_much(federate, fake_model, monkeypatch, value):
    honest = begin(federate, fake_model, monkeypatch)
    expected = honest.run()
    lied = begin(federate, fake_model, monkeypatch, square_is(value))
    state = lied.run()
    assert max(steps(lied)) < 1.5 * max(steps(honest))
    assert norm(subtract(state.adapter, expected.adapter)) < 0.2 * norm(subtract(expected.adapter, honest.initial))


def full(numbers, figures, number):
    """Numbers anywhere in the ring, from round 2 on."""
    if number > 1:
        numbers = np.random.default_rng(number).integers(-32, 32, numbers.size)
    return numbers, figures


def far(numbers, figures, number):
    """The other way, forty times as far, from round 2 on."""
    return (numbers * -40, figures) if number > 1 else (numbers, figures)


@pytest.mark.parametrize("change", [full, far])
def test_a_sum_that_the_ring_does_not_hold_ends_the_run_with_the_last_good_adapter(
    federate, fake_model, monkeypatch, change
):
    federation = begin(federate, fake_model, monkeypatch, change)
    for _ in range(2):
        with pytest.raises(PeerError, match=r"round 2 .*departs from the protocol.*adapter of round 1"):
            federation.run()
        assert federation.published[-1].round == 1


def test_a_member_that_sends_ever_more_makes_a_grid_half_again_as_coarse_at_most(federate, fake_model, monkeypatch):
    """It is three times as long as it may be in every round, and claims to be as long as can be."""

    def change(numbers, figures, number):
        return square_is(1 << 62)(numbers * (3 if number > 1 else 1), figures, number)

    federation = begin(federate, fake_model, monkeypatch, change)
    federation.run()
    units = [event["unit"] for event in federation.of_kind("sum_unmasked") if event["purpose"] == "train"]
    assert len(units) == ROUNDS
    assert all(after <= 1.5001 * before for before, after in pairwise(units))


def test_no_round_s_grid_is_coarser_than_the_plan_allows(federate, fake_model):
    masked = federate({name: fake_model(1.0, 3) for name in NAMES}, masked=True).masked
    state, parts = initial_state(b"r" * 16, federate().ranks), (slice(0, 16),)
    first = masked.wanted(state, parts)
    for length in (1e-30, 1.0, 1e30):
        state = replace(state, update_length=length)
        for numbers in (np.zeros(64, np.int32), np.full(64, 12, np.int32)):
            figures = encode_figures({"square": 1e30}, TRAINING)
            summed = Summed(numbers, figures, tuple(NAMES), 5, first.bits, length)
            assert 1e-4 < masked.length(state, parts, summed) / (0.2 * 4 / 2) <= 32
