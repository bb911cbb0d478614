"""Flower's strategies as rules, compared with the papers in plain maths."""

import itertools

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from flwr.serverapp.strategy import FedMedian

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout, Subject
from plait.aggregation import RULES, Contribution, RoundContext, Rule, check_rule, geometry_of
from plait.errors import ConfigError, PeerError
from plait.flower import FLOWER_RULES
from plait.flower.rules import flower_algorithm

LAYOUT = Layout.of({"q.lora_A.weight": [2, 5], "q.lora_B.weight": [7, 2]})
SPEC = AdapterSpec("lora", {"r": 2, "lora_alpha": 4}, AdapterTask.CAUSAL_LM, (), LAYOUT, 0)
GEOMETRY = geometry_of(SPEC)
ZERO = AdapterState.zeros(LAYOUT)


def cohort(values, weights=None):
    weights = [1.0] * len(values) if weights is None else weights
    return [
        Contribution(f"client-{k}", ZERO, AdapterState(LAYOUT, np.asarray(v, np.float32)), float(w), GEOMETRY)
        for k, (v, w) in enumerate(zip(values, weights, strict=True))
    ]


def run(rule, contributions):
    accumulator = rule.begin(RoundContext(round=1, master=ZERO, geometry=GEOMETRY, initial=ZERO))
    for contribution in contributions:
        accumulator.add(contribution)
    return accumulator.finish()


def draw(clients, seed=0):
    return np.random.default_rng(seed).normal(size=(clients, LAYOUT.size)).astype(np.float32)


def krum_order(values, bad):
    """Clients by the sum of squared distances to their n - f - 2 nearest others, least first."""
    values = values.astype(np.float64)
    scores = []
    for i, mine in enumerate(values):
        squares = sorted(np.sum((mine - other) ** 2) for j, other in enumerate(values) if j != i)
        scores.append(sum(squares[: max(1, len(values) - bad - 2)]))
    return np.argsort(scores)


@pytest.mark.parametrize("clients", [3, 5, 8, 12])
def test_krum_takes_the_update_with_the_nearest_neighbours(clients):
    values = draw(clients)
    outcome = run(FLOWER_RULES["krum"], cohort(values))
    np.testing.assert_array_equal(outcome.step.flat, values[krum_order(values, (clients - 3) // 2)[0]])
    assert outcome.figures["tolerated_clients"] == (clients - 3) // 2


@pytest.mark.parametrize("clients", [7, 8, 12])
def test_multi_krum_averages_as_many_as_the_paper_allows(clients):
    values, weights = draw(clients), np.arange(1.0, clients + 1)
    bad = (clients - 3) // 4
    chosen = krum_order(values, bad)[: clients - 2 * bad - 3]
    outcome = run(FLOWER_RULES["multi_krum"], cohort(values, weights))
    expected = np.average(values[chosen].astype(np.float64), axis=0, weights=weights[chosen])
    np.testing.assert_allclose(outcome.step.flat, expected, rtol=1e-6)


@pytest.mark.parametrize("clients", [7, 8, 12])
def test_bulyan_averages_the_values_next_to_the_median_of_krums_choice(clients):
    values = draw(clients)
    bad = (clients - 3) // 4
    chosen = values[krum_order(values, bad)[: clients - 2 * bad]].astype(np.float64)
    away = np.argsort(np.abs(chosen - np.median(chosen, axis=0)), axis=0)[: len(chosen) - 2 * bad]
    expected = np.take_along_axis(chosen, away, axis=0).mean(axis=0)
    np.testing.assert_allclose(run(FLOWER_RULES["bulyan"], cohort(values)).step.flat, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", FLOWER_RULES)
def test_a_liar_as_large_as_float32_allows_moves_nothing(name):
    honest = draw(6)
    liar = np.where(honest[0] < 0, np.float32(2.0**119), np.float32(-(2.0**119)))
    for place in (0, 3, 6):
        values = np.insert(honest, place, liar, axis=0)
        step = run(FLOWER_RULES[name], cohort(values)).step.flat
        assert (step >= honest.min(axis=0)).all()
        assert (step <= honest.max(axis=0)).all()


@pytest.mark.parametrize("name", FLOWER_RULES)
@pytest.mark.parametrize("clients", [1, 2, 3])
def test_a_round_that_few_clients_answered_still_has_a_result(name, clients):
    values = draw(clients)
    outcome = run(FLOWER_RULES[name], cohort(values))
    assert outcome.figures["tolerated_clients"] == 0
    if name == "bulyan":
        np.testing.assert_allclose(outcome.step.flat, values.astype(np.float64).mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", FLOWER_RULES)
def test_the_order_of_the_clients_does_not_matter(name):
    values = draw(7)
    expected = run(FLOWER_RULES[name], cohort(values)).step.flat
    for order in itertools.islice(itertools.permutations(range(7)), 1000, 5040, 2000):
        np.testing.assert_allclose(run(FLOWER_RULES[name], cohort(values[list(order)])).step.flat, expected, rtol=1e-6)


@pytest.mark.parametrize("name", FLOWER_RULES)
def test_plaits_validator_stands_before_flower(name):
    accumulator = FLOWER_RULES[name].begin(RoundContext(round=1, master=ZERO, geometry=GEOMETRY, initial=ZERO))
    for contribution in cohort(draw(7)):
        accumulator.add(contribution)
    for bad in (*cohort(np.full((1, LAYOUT.size), np.nan)), *cohort(draw(1), [np.nan]), *cohort(draw(1), [1e18])):
        with pytest.raises(PeerError, match="update of 'client-0'"):
            accumulator.add(bad)
    np.testing.assert_array_equal(accumulator.finish().step.flat, run(FLOWER_RULES[name], cohort(draw(7))).step.flat)


@pytest.mark.parametrize(("name", "least"), [("krum", 5), ("multi_krum", 7), ("bulyan", 7)])
def test_a_cohort_in_which_no_bad_client_can_be_stood_is_refused_at_configuration(name, least):
    rule = FLOWER_RULES[name]
    assert [run(rule, cohort(draw(clients))).figures["tolerated_clients"] for clients in (least - 1, least)] == [0, 1]
    check_rule(rule, GEOMETRY, clients=least)
    with pytest.raises(ConfigError, match=rf"rule is '{name}' with {least - 1} clients .* at least {least}"):
        check_rule(rule, GEOMETRY, clients=least - 1)
    assert not rule.linear


@pytest.mark.parametrize(
    ("strategy", "ours"), [(FlowerFedAvg, "fedavg"), (FedMedian, "median")], ids=["mean", "median"]
)
def test_any_strategy_of_flowers_can_be_a_rule_and_agrees_with_ours(strategy, ours):
    algorithm = flower_algorithm(tolerates=lambda _: 0, strategy=lambda _updates, _bad: strategy())
    rule = Rule(name="own", title="own", computes="own", algorithm=algorithm, subject=Subject.TENSORS)
    contributions = cohort(draw(6), [1, 2, 3, 4, 5, 6])
    expected = run(RULES[ours], contributions).step.flat
    np.testing.assert_allclose(run(rule, contributions).step.flat, expected, rtol=1e-6, atol=1e-8)
