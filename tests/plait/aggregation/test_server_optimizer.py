import dataclasses

import numpy as np
import pytest

from plait.adapters import AdapterState
from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.fedopt import Adaptive, Sgd
from plait.aggregation.fedsvd import FEDSVD
from plait.aggregation.flexlora import FLEXLORA
from plait.aggregation.requirements import optimizer_stated, rule_stated
from plait.aggregation.round import Outcome
from plait.aggregation.server_optimizer import Plain
from plait.errors import ConfigError
from plait.traits import check


@pytest.fixture
def steps(lab):
    geometry, generator = lab.geometry(), np.random.default_rng(3)
    return lab.context(geometry, generator), [lab.state(geometry, generator, 0.01) for _ in range(4)]


def taken(optimizer, steps):
    context, states = steps
    memory, result = {}, []
    for state in states:
        step, memory = optimizer.adjust(Outcome(state), memory, context)
        result.append(step.flat)
    return result


def test_none_takes_the_step_as_it_is(steps):
    for got, state in zip(taken(Plain(), steps), steps[1], strict=True):
        np.testing.assert_array_equal(got, state.flat)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_textbook_momentum(steps, nesterov):
    m = 0.0
    for got, state in zip(taken(Sgd(lr=0.7, momentum=0.9, nesterov=nesterov), steps), steps[1], strict=True):
        d = state.flat.astype(float)
        m = 0.9 * m + d
        np.testing.assert_allclose(got, 0.7 * (d + 0.9 * m if nesterov else m), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_the_adaptive_ones_are_algorithm_2_of_the_paper(steps, name):
    optimizer = Adaptive(name, lr=0.1, momentum=0.9, beta2=0.99, tau=1e-3)
    m, v = 0.0, 1e-6
    for got, state in zip(taken(optimizer, steps), steps[1], strict=True):
        d = state.flat.astype(float)
        m = 0.9 * m + 0.1 * d
        v = {
            "fedadagrad": v + d**2,
            "fedadam": 0.99 * v + 0.01 * d**2,
            "fedyogi": v - 0.01 * d**2 * np.sign(v - d**2),
        }[name]
        np.testing.assert_allclose(got, 0.1 * m / (np.sqrt(v) + 1e-3), rtol=1e-4, atol=1e-7)


def test_memory_is_not_changed_in_place(steps):
    context, states = steps
    _, memory = Sgd(momentum=0.9).adjust(Outcome(states[0]), {}, context)
    before = {name: array.copy() for name, array in memory.items()}
    Sgd(momentum=0.9).adjust(Outcome(states[1]), memory, context)
    for name, array in memory.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("rule", "optimizer", "fits"),
    [
        (FLEXLORA, Sgd(momentum=0.9), True),
        (FEDAVG, Adaptive("fedadam"), True),
        (FEDSVD, Adaptive("fedadam"), False),
        (FEDSVD, Plain(), True),
    ],
)
def test_an_optimizer_that_means_nothing_after_a_rule_is_refused(rule, optimizer, fits):
    stated = (rule_stated(rule), optimizer_stated(optimizer))
    if fits:
        check(stated)
    else:
        with pytest.raises(ConfigError, match=f"server-optimizer is '{optimizer.name}' and rule is '{rule.name}'"):
            check(stated)


def test_an_optimizer_on_raw_factors_is_refused_where_each_rank_is_cut_anew():
    rule = rule_stated(FLEXLORA, one_rank=False)
    with pytest.raises(ConfigError, match="this rule gives other factors to clients of several ranks"):
        check((rule, optimizer_stated(Sgd(momentum=0.9))))


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sgd().momentum = 0.5


def test_the_step_has_the_layout_of_the_rules_step(steps):
    step, _ = Sgd(lr=2.0).adjust(Outcome(steps[1][0]), {}, steps[0])
    assert isinstance(step, AdapterState)
    assert step.layout is steps[1][0].layout
