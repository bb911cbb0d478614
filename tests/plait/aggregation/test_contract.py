"""The contract of every rule in the table."""

from dataclasses import replace

import numpy as np
import pytest

from plait.adapters import AdapterState
from plait.aggregation import RULES, Exactness, Side
from plait.errors import PeerError

WEIGHTS = (3.0, 1.0, 2.0, 5.0)
# Their adapters have a square matrix in the place of the factors, which the fixture's have not.
PLAIN = [name for name in RULES if name != "fedsb"]


@pytest.fixture(params=PLAIN)
def rule(request):
    return RULES[request.param]


@pytest.fixture
def round_(lab, rule):
    """A context and a cohort for a rule."""
    generator = np.random.default_rng(3)
    context = lab.context(lab.geometry(), generator)
    return context, lab.contributions(rule, context, generator, weights=WEIGHTS)


def bits(outcome):
    base = outcome.base.to_arrays() if outcome.base else {}
    return outcome.step.digest(), [(name, base[name].tobytes()) for name in sorted(base)]


@pytest.mark.parametrize("name", RULES)
def test_a_rule_stands_under_its_own_name_and_says_in_one_line_what_it_computes(name):
    rule = RULES[name]
    assert rule.name == name
    for text in (rule.computes, rule.title):
        assert text
        assert "\n" not in text


def test_the_same_cohort_gives_the_same_bits_and_is_not_changed(lab, rule, round_):
    context, cohort = round_
    before = [contribution.delta.digest() for contribution in cohort]

    first, second = (lab.run(rule, context, cohort) for _ in range(2))

    assert bits(first) == bits(second)
    assert [contribution.delta.digest() for contribution in cohort] == before


def test_only_the_ratio_of_the_weights_matters(lab, rule, round_):
    context, _ = round_
    results = []
    for factor in (1.0, 64.0):
        generator = np.random.default_rng(4)
        cohort = lab.contributions(rule, context, generator, weights=[factor * weight for weight in WEIGHTS])
        results.append(lab.result(context, lab.run(rule, context, cohort)))

    assert lab.distance(*results) < 1e-5 * lab.size(results[0])


def test_an_exact_rule_gives_the_exact_mean_of_the_products(lab, rule, round_):
    if rule.exactness is not Exactness.EXACT:
        pytest.skip("the rule says that it is not exact")
    context, cohort = round_

    result = lab.result(context, lab.run(rule, context, cohort))

    assert lab.distance(result, lab.exact_mean(cohort)) < 1e-6 * lab.size(result)


def test_a_linear_rule_sees_no_more_than_the_weighted_sum_of_the_deltas(lab, rule, round_):
    if not rule.linear:
        pytest.skip("the rule says that it is not linear")
    context, cohort = round_
    mean = AdapterState(context.geometry.layout, lab.mean_delta(cohort).astype(np.float32))
    alone = [type(c)(c.client, c.received, mean, c.weight, c.geometry) for c in cohort[:1]]

    whole, from_mean = (lab.landed(context, lab.run(rule, context, c)) for c in (cohort, alone))

    np.testing.assert_allclose(whole, from_mean, atol=1e-5)


@pytest.mark.parametrize("broken", ["nan weight", "negative weight", "absurd weight", "nan", "infinity"])
def test_an_update_that_makes_no_sense_is_refused_by_name_and_leaves_the_round_as_it_was(lab, rule, round_, broken):
    context, cohort = round_
    last = cohort[-1]
    weight = {"nan weight": np.nan, "negative weight": -1.0, "absurd weight": 1e18}.get(broken, last.weight)
    flat = np.array(last.delta.flat)
    if broken in ("nan", "infinity"):
        trained = next(iter(sorted(rule.trained(1))))
        flat[context.geometry.pairs[0].slot(trained).offset] = np.nan if broken == "nan" else np.inf
    bad = type(last)("mallory", last.received, AdapterState(last.delta.layout, flat), weight, last.geometry)
    accumulator = rule.begin(context)
    for contribution in cohort:
        accumulator.add(contribution)

    with pytest.raises(PeerError, match="mallory"):
        accumulator.add(bad)

    assert bits(accumulator.finish()) == bits(lab.run(rule, context, cohort))


def test_a_rank_that_the_rule_cannot_take_is_refused(lab, rule, round_):
    context, _ = round_
    generator = np.random.default_rng(5)
    other = lab.geometry(rank=1)
    context = replace(context, cohort=(context.geometry, other))
    foreign = lab.contributions(RULES["flexlora"], context, generator, weights=[1.0], geometries=[other])[0]
    accumulator = rule.begin(context)
    if rule.mixed_ranks:
        accumulator.add(foreign)
        return
    with pytest.raises(PeerError, match=r"rank of .* is 1, expected 2"):
        accumulator.add(foreign)


def test_a_round_without_updates_has_no_result(lab, rule, round_):
    with pytest.raises(ValueError, match="no update"):
        rule.begin(round_[0]).finish()


def test_what_does_not_train_does_not_move(lab, rule, round_):
    context, cohort = round_
    frozen = [side for side in Side if side not in rule.trained(context.round)]
    landed = lab.landed(context, lab.run(rule, context, cohort))

    for side in frozen:
        for pair in context.geometry.pairs:
            slot = pair.slot(side)
            part = slice(slot.offset, slot.offset + slot.size)
            if rule.continuous:
                np.testing.assert_array_equal(landed[part], context.master.flat[part])


def test_factors_turn_where_a_rule_decomposes_anew_or_cuts_several_ranks_from_one_product():
    turning = {
        one_rank: {name for name, rule in RULES.items() if rule.new_factors(one_rank=one_rank)}
        for one_rank in (True, False)
    }
    assert turning[True] == {"fedsvd", "flora", "raflora"}
    assert turning[False] == turning[True] | {"flexlora", "florist", "product_mean"}
