from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState, add
from plait.aggregation import geometry_of
from plait.rounds import fold
from plait.rounds.spool import Weighting
from plait.rounds.validate import (
    FIGURES,
    WEIGHT_RATIO,
    NormBound,
    NormPolicy,
    beyond,
    bounded,
    clipped,
    measure,
    remembered,
)
from tests.killing import different_stories

ONES = dict.fromkeys(FIGURES, 1.0)


@pytest.fixture
def geometry(spec_and_state):
    return geometry_of(spec_and_state[0])


@pytest.fixture
def received(spec_and_state):
    return spec_and_state[1]


def delta_of(received, seed=0, size=0.1):
    values = np.random.default_rng(seed).normal(size=received.layout.size) * size
    return AdapterState(received.layout, values.astype(np.float32))


def turned(received, geometry, c):
    """The delta to (B / c)(c A)."""
    after = received.flat.copy()
    for pair in geometry.pairs:
        pair.a_of(after)[:] *= c
        pair.b_of(after)[:] /= c
    return AdapterState(received.layout, after - received.flat)


def test_figures_are_those_of_dense_matrices(received, geometry):
    delta = delta_of(received)
    (pair,) = geometry.pairs
    a, b = (of(received.flat).astype(np.float64) for of in (pair.a_of, pair.b_of))
    da, db = (of(delta.flat).astype(np.float64) for of in (pair.a_of, pair.b_of))
    norms = measure(delta, received, geometry)
    assert norms["A"] == pytest.approx(np.sqrt(np.mean(da**2)))
    assert norms["B"] == pytest.approx(np.sqrt(np.mean(db**2)))
    assert norms["product"] == pytest.approx(pair.scale * np.linalg.norm((b + db) @ (a + da) - b @ a))
    assert norms["other"] == 0


def test_a_gauge_leaves_the_product_as_it_is_and_is_caught_by_its_factors(received, geometry):
    limits = NormBound().limits([measure(delta_of(received, seed), received, geometry) for seed in range(4)], [])
    for c in (1000.0, 0.001):
        norms = measure(turned(received, geometry, c), received, geometry)
        assert norms["product"] < 1e-3 * limits["product"]
        assert beyond(norms, limits).startswith("norm of A is " if c > 1 else "norm of B is ")


def test_factors_within_their_bounds_that_conspire_are_caught_by_their_product(received, geometry):
    (pair,) = geometry.pairs
    still = AdapterState.zeros(received.layout)
    honest = [measure(delta_of(received, seed), still, geometry) for seed in range(4)]
    limits = NormBound(factor=3).limits(honest, [])
    # All of both factors on one direction, each no larger than an honest one may be.
    flat = np.zeros(received.layout.size, np.float32)
    pair.a_of(flat)[0] = 0.99 * limits["A"] * math.sqrt(pair.rank)
    pair.b_of(flat)[:, 0] = 0.99 * limits["B"] * math.sqrt(pair.rank)
    norms = measure(AdapterState(received.layout, flat), still, geometry)
    assert norms["A"] < limits["A"]
    assert norms["B"] < limits["B"]
    assert beyond(norms, limits).startswith("norm of product is ")


def test_a_minority_of_liars_moves_no_limit_beyond_honest_figures():
    honest = [dict.fromkeys(FIGURES, 1.0 + 0.1 * k) for k in range(6)]
    liars = [dict.fromkeys(FIGURES, 1e30)] * 5
    limits = NormBound(factor=2).limits(honest + liars, [])
    assert all(limits[figure] <= 2 * 1.5 for figure in FIGURES)


def test_rounds_before_count_so_that_a_round_of_liars_is_outnumbered():
    history = [ONES] * 4
    limits = NormBound(factor=2).limits([dict.fromkeys(FIGURES, 1e30)] * 3, history)
    assert limits == dict.fromkeys(FIGURES, 2.0)


@pytest.mark.parametrize("size", [1.0, 1e30])
def test_what_is_clipped_is_just_within_every_limit_and_points_the_same_way(received, geometry, size):
    limits = dict.fromkeys(FIGURES, 0.01)
    delta = delta_of(received, size=size)
    short = clipped(delta, received, geometry, limits)
    norms = measure(short, received, geometry)
    assert beyond(norms, limits) is None
    assert max(norms[figure] for figure in FIGURES) > 0.009
    here, there = short.flat.astype(np.float64), delta.flat.astype(np.float64)
    assert here @ there / np.linalg.norm(here) / np.linalg.norm(there) == pytest.approx(1, rel=1e-5)


def gauge_attacker(fake_model, *, since=1):
    """Honest until round `since`."""

    class Attacker(fake_model):
        def train(self, job):
            trained = super().train(job)
            if job.settings.round < since:
                return trained
            return replace(trained, state=add(job.start, turned(job.start, geometry_of(job.spec), 1000.0)))

    return Attacker(1, 3)


HONEST = ("alice", "bob", "carol", "dave")


# Of 16 numbers 1 bit a parameter leaves nothing at all.
@pytest.mark.slow
@pytest.mark.parametrize("wire", ["fp32", "4"])
def test_a_gauge_attacker_changes_nothing_of_a_run(federate, fake_model, wire):
    honest = {name: fake_model(1 + 0.1 * k, 3 + k) for k, name in enumerate(HONEST)}
    without = federate(honest, wire=wire, rounds=4).run()
    attacked = federate(honest | {"mallory": gauge_attacker(fake_model)}, wire=wire, rounds=4)
    state = attacked.run()
    assert state.adapter.digest() == without.adapter.digest()
    refused = attacked.of_kind("update_refused")
    assert [(event["round"], event["client"], event["reason"]) for event in refused] == [
        (number, "mallory", "norm") for number in range(1, 5)
    ]
    assert refused[0]["detail"].startswith("norm of A is ")
    assert [event["received"] for event in attacked.of_kind("round_finished")] == [4] * 4


@pytest.mark.slow
@pytest.mark.parametrize("policy", [NormPolicy.REJECT, NormPolicy.CLIP])
def test_a_run_under_attack_that_is_killed_anywhere_goes_on_to_the_same_adapter(
    federate, fake_model, snapshots_of, monkeypatch, policy
):
    models = {name: fake_model(1 + 0.1 * k, 3) for k, name in enumerate(HONEST)}
    models["mallory"] = gauge_attacker(fake_model)
    federation = federate(models, wire="bf16", rounds=3, norm_bound=NormBound(policy))
    snapshots = snapshots_of(federation)
    # Where each round is folded is where the bound decides.
    monkeypatch.setattr(fold, "remembered", lambda *given: (snapshots.take("folded"), remembered(*given))[1])
    federation.channel.before = lambda asked: snapshots.take("before a client works")
    expected = federation.run()
    monkeypatch.undo()
    assert len(snapshots.killed) > 15
    for where, killed in snapshots.killed:
        state = killed.run()
        assert (state.adapter.digest(), state.norms) == (expected.adapter.digest(), expected.norms), where
        assert not different_stories(killed.events, federation.events), where
        events = killed.of_kind("update_refused")
        assert [event["round"] for event in events] == ([1, 2, 3] if policy is NormPolicy.REJECT else []), where


HUGE = 1 << 40


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        ({"a": 5, "b": 50}, {"a": 5.0, "b": 50.0}),
        ({"a": 5, "b": 51}, {"a": 5.0, "b": 50.0}),
        ({"a": 1, "b": 2, "c": 2**63 - 1}, {"a": 1.0, "b": 2.0, "c": 20.0}),
        ({"a": 3, "b": 4, "c": HUGE, "d": HUGE}, {"a": 3.0, "b": 4.0, "c": 40.0, "d": 40.0}),
    ],
)
def test_no_weight_is_more_than_ten_times_the_lower_median(examples, expected):
    assert WEIGHT_RATIO == 10
    assert bounded(examples) == expected


def test_a_client_that_claims_to_have_all_the_data_there_are_is_not_the_mean(federate):
    models = dict(federate().models)
    models["mallory"] = replace(models["mallory"], train_examples=HUGE)
    federation = federate(models, rounds=1, weighting=Weighting.EXAMPLES)
    state = federation.run()
    values = federation.initial.flat.astype(np.float64)
    weights = {"alice": 3.0, "bob": 7.0, "mallory": 70.0}
    deltas = [weights[name] * (federation.train_alone(name, values, 1) - values) for name in weights]
    np.testing.assert_allclose(state.adapter.flat, values + sum(deltas) / sum(weights.values()), rtol=0, atol=1e-6)
    assert federation.of_kind("round_finished")[0]["weight_capped"] == ["mallory"]


@pytest.mark.parametrize("examples", [2**44, 2**59])
def test_more_data_than_there_are_is_no_description(federate, examples):
    models = dict(federate().models)
    models["mallory"] = replace(models["mallory"], train_examples=examples)
    federation = federate(models, quorum=2, rounds=1, weighting=Weighting.EXAMPLES)
    federation.run()
    (event,) = federation.of_kind("client_turned_away")
    assert (event["client"], event["reason"]) == ("mallory", "weight")
    assert f"states {examples} training examples" in event["detail"]
