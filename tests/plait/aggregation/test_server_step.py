"""Server optimizers against their papers."""

import math

import numpy as np
import pytest

from plait.adapters import AdapterState
from plait.aggregation.fedopt import Adaptive, Sgd
from plait.aggregation.means import FEDAVG
from plait.aggregation.products import FEDSVD, FLEXLORA
from plait.aggregation.rule import Outcome
from plait.aggregation.server_step import LineSearch, Plain, slope_of
from plait.aggregation.table import optimizer_for, optimizer_stated, rule_stated
from plait.errors import ConfigError
from plait.settings.traits import check


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adamw:lr=1", "server optimizer is 'adamw', expected one of"),
        ("sgd:lr=0", "lr of server optimizer 'sgd' is '0', expected greater than 0"),
        ("sgd:lr=nan", "lr of server optimizer 'sgd' is 'nan', expected a finite number"),
        ("fedadam:nu=0.9", "server optimizer 'fedadam' is given the option 'nu', expected one of"),
        ("sgd:momentum=1", "momentum of server optimizer 'sgd' is '1', expected less than 1"),
    ],
)
def test_what_cannot_be_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        optimizer_for(text)


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
        v = {"fedadagrad": v + d**2, "fedadam": 0.99 * v + 0.01 * d**2, "fedyogi": v - 0.01 * d**2 * np.sign(v - d**2)}[
            name
        ]
        np.testing.assert_allclose(got, 0.1 * m / (np.sqrt(v) + 1e-3), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e3])
@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_by_default_a_step_is_about_as_long_as_the_rule_s_whatever_its_size(steps, name, scale):
    context, states = steps
    larger = [AdapterState(state.layout, state.flat * np.float32(scale)) for state in states]
    plain = taken(Adaptive(name), steps)
    scaled = taken(Adaptive(name), (context, larger))
    for got, of_scale in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(of_scale, got * scale, rtol=1e-3, atol=1e-6 * scale)
    assert 0.5 < np.linalg.norm(plain[0]) / np.linalg.norm(states[0].flat) < 1.1


def test_a_given_rate_that_would_destroy_the_adapter_is_refused_in_the_first_round(steps):
    with pytest.raises(ConfigError, match=r"lr 500 and tau 0.001 is \d+ times as long .* leave lr and tau out"):
        taken(Adaptive("fedadam", lr=500.0, tau=1e-3), steps)


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


@pytest.fixture
def lengths(lab):
    """The length of each step over that of the rule's, for these slopes, one per round."""
    context = lab.context(lab.geometry(), np.random.default_rng(0))

    def run(*slopes):
        step = AdapterState(context.master.layout, np.ones(context.master.layout.size, np.float32))
        memory, taken = {}, []
        for slope in slopes:
            after, memory = LineSearch().adjust(Outcome(step, slope=slope), memory, context)
            taken.append(float(after.flat[0]))
        return taken

    return run


def test_a_step_gets_longer_while_the_loss_still_fell_where_the_last_one_ended(lengths):
    assert lengths(None, -0.19, 0.21, None) == pytest.approx([1.0, 1 / 0.9, 1 / 0.99, 1 / 0.99])


def test_steps_stay_within_bounds_whatever_clients_say(lengths):
    assert lengths(-1.0, -1.0, 1.0, 1.0) == pytest.approx([1.5, 1.5, 1.5 / 2**0.5, 0.75])


def test_the_slope_is_the_weighted_mean_over_those_that_measured_it_relative_to_a_quarter_of_the_loss():
    assert slope_of([(-0.1, 1.0), (math.nan, 5.0), (0.05, 3.0)]) == pytest.approx((-0.4 + 3 * 0.2) / 4)
    assert slope_of([(math.nan, 1.0)]) is None
