"""What every rule in the table must do, whatever else it does."""

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.aggregation import RULES

LAYOUT = Layout.of({"A": [2, 3], "B": [3, 2]})


def state(seed):
    return AdapterState(LAYOUT, np.random.default_rng(seed).normal(size=LAYOUT.size).astype(np.float32))


@pytest.fixture(params=list(RULES))
def rule(request):
    return RULES[request.param]


def test_a_rule_stands_under_its_own_name_and_says_what_it_computes(rule):
    assert RULES[rule.name] is rule
    assert rule.computes
    assert "\n" not in rule.computes


def test_one_client_alone_gets_its_own_delta_back(rule):
    accumulator = rule.begin(state(0))
    accumulator.add(state(1), 5.0)
    np.testing.assert_allclose(accumulator.finish().flat, state(1).flat, rtol=1e-6)


def test_the_same_updates_give_the_same_bits_and_are_not_changed(rule):
    results = set()
    deltas = [state(1), state(2)]
    before = [delta.digest() for delta in deltas]
    for _ in range(2):
        accumulator = rule.begin(state(0))
        for delta in deltas:
            accumulator.add(delta, 2.0)
        results.add(accumulator.finish().digest())
    assert len(results) == 1
    assert [delta.digest() for delta in deltas] == before


def test_only_the_ratio_of_the_weights_matters(rule):
    results = []
    for factor in (1.0, 64.0):
        accumulator = rule.begin(state(0))
        accumulator.add(state(1), 1 * factor)
        accumulator.add(state(2), 3 * factor)
        results.append(accumulator.finish().flat)
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_a_linear_rule_adds_up(rule):
    if not rule.linear:
        pytest.skip("the rule says that it is not linear")

    def result(scale):
        accumulator = rule.begin(state(0))
        for seed in (1, 2):
            accumulator.add(AdapterState(LAYOUT, scale * state(seed).flat), float(seed))
        return accumulator.finish().flat

    np.testing.assert_allclose(result(np.float32(2)), 2 * result(np.float32(1)), rtol=1e-6)
