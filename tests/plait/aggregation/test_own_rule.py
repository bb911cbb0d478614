"""A user's own rule, from a function or a class."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field

from plait.adapters import AdapterState, Subject
from plait.aggregation import RULES, Outcome, rule_named
from plait.aggregation.own_rule import as_rule, rule, stated_text
from plait.errors import ConfigError
from plait.flower import ALL_RULES

WEIGHTS = [3.0, 1.0, 2.0, 5.0]


@rule
def median_of_means(updates, ctx, *, groups: Annotated[int, Field(ge=1)] = 2):
    """Median of the means of groups."""
    return np.median([part.mean(axis=0) for part in np.array_split(updates.deltas, groups)], axis=0)


@rule(linear=True, needs_all=False)
class Streaming:
    """The weighted mean, one by one."""

    def __init__(self, ctx):
        self.sum, self.weights = np.zeros(ctx.geometry.layout.size), 0.0

    def add(self, contribution):
        self.sum += contribution.weight * contribution.delta.flat
        self.weights += contribution.weight

    def finish(self):
        return self.sum / self.weights


@dataclass(frozen=True)
class Scaled:
    factor: Annotated[float, Field(gt=0)] = 2.0

    def __call__(self, context):
        accumulator = RULES["fedavg"].algorithm(context)
        accumulator_finish = accumulator.finish
        accumulator.finish = lambda: _times(accumulator_finish(), self.factor)
        return accumulator


def _times(outcome, factor):
    return Outcome(AdapterState(outcome.step.layout, np.float32(factor) * outcome.step.flat))


@pytest.fixture
def cohort(lab):
    generator = np.random.default_rng(3)
    context = lab.context(lab.geometry(), generator)
    return context, lab.contributions(RULES["fedavg"], context, generator, weights=WEIGHTS)


def test_a_function_of_all_updates_is_a_rule_with_its_keywords_as_options(lab, cohort):
    context, contributions = cohort
    deltas = np.array([each.delta.flat for each in contributions], np.float64)
    for groups, expected in ((1, deltas.mean(axis=0)), (4, np.median(deltas, axis=0))):
        own = median_of_means.with_options({"groups": str(groups)})
        np.testing.assert_allclose(lab.run(own, context, contributions).step.flat, expected, rtol=1e-5, atol=1e-6)
    assert (median_of_means.needs_all, median_of_means.subject) == (True, Subject.TENSORS)
    assert median_of_means.computes == "Median of the means of groups."
    with pytest.raises(ConfigError, match="greater than or equal to 1"):
        median_of_means.with_options({"groups": "0"})


def test_a_parameter_with_a_default_is_an_option_without_a_star_too(lab, cohort):
    def powered(updates, ctx, power: float = 1.0):
        return updates.deltas.mean(axis=0) * power

    whole, half = (lab.run(as_rule(powered, name="mine").with_options(options), *cohort).step.flat
                   for options in ({}, {"power": "0.5"}))  # fmt: skip
    np.testing.assert_array_equal(half, whole / 2)


def test_a_class_adds_up_one_by_one_and_a_dataclass_has_its_fields_as_options(lab, cohort):
    context, contributions = cohort
    mean = lab.run(RULES["fedavg"], context, contributions).step.flat
    np.testing.assert_allclose(lab.run(Streaming, context, contributions).step.flat, mean, rtol=1e-5)
    own = as_rule(Scaled, name="mine").with_options({"factor": "3"})
    np.testing.assert_allclose(lab.run(own, context, contributions).step.flat, 3 * mean, rtol=1e-6)


def test_the_function_sees_weights_names_examples_and_losses_and_cannot_write_them(lab, cohort):
    context, contributions = cohort
    seen = []

    @rule
    def look(updates, ctx):
        seen.append((updates, ctx))
        return np.zeros(updates.deltas.shape[1])

    lab.run(look, context, contributions)
    ((updates, ctx),) = seen
    assert ctx is context
    assert updates.weights.tolist() == WEIGHTS
    assert updates.names == tuple(each.client for each in contributions)
    assert updates.examples.tolist() == [0] * 4
    assert np.isnan(updates.losses).all()
    with pytest.raises(ValueError, match="read-only"):
        updates.deltas[0, 0] = 1


def test_what_a_function_returns_beside_the_step_is_its_memory_of_the_next_round(lab, cohort):
    context, contributions = cohort

    @rule
    def counts(updates, ctx):
        return updates.deltas.mean(axis=0), {"rounds": 1 + ctx.memory.get("rounds", 0)}

    assert int(lab.run(counts, context, contributions).memory["rounds"]) == 1


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda u: u.deltas, r"shape \(4, .*expected one number for each of"),
        (lambda u: np.full(u.deltas.shape[1], np.nan), "not finite"),
        (lambda u: None, "object of shape"),
        (lambda u: 1 / 0, r"failed in round 1: ZeroDivisionError: division by zero \(.*test_own_rule\.py, line \d+\)"),
    ],
    ids=["a matrix", "not a number", "nothing", "an error"],
)
def test_a_step_that_makes_no_sense_is_one_line_about_the_rule(lab, cohort, made, said):
    @rule
    def broken(updates, ctx):
        return made(updates)

    with pytest.raises(ConfigError, match=said) as caught:
        lab.run(broken, *cohort)
    assert "broken" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (lambda updates: updates, "expected \\(updates, ctx\\)"),
        (5, "expected a function or class"),
        (Scaled(3.0), "is a Scaled, expected a function or class"),
        (type("Half", (), {"add": print}), "add and finish"),
    ],
)
def test_what_cannot_be_a_rule_is_refused(part, said):
    with pytest.raises(ConfigError, match=said):
        as_rule(part, name="mine")


def test_a_function_that_says_that_it_does_not_need_all_is_refused():
    with pytest.raises(ConfigError, match="needs_all"):
        rule(needs_all=False)(lambda updates, ctx: 0)


SEEN = ["name", "subject", "ranks", "resizing", "frozen", "personal", "linear", "continuous"]


@pytest.mark.parametrize("name", ALL_RULES)
def test_a_client_knows_all_that_it_needs_of_a_rule(name):
    theirs = replace(ALL_RULES[name], name="my_rules:outer.<locals>.mine")
    stated = rule_named(stated_text(theirs), RULES)
    assert {key: getattr(stated, key) for key in SEEN} == {key: getattr(theirs, key) for key in SEEN}


def test_a_stated_rule_combines_nothing(lab):
    stated = rule_named("stated:name=theirs,subject=tensors", RULES)
    with pytest.raises(ConfigError, match="only stated: in round 1"):
        stated.begin(lab.context(lab.geometry(), np.random.default_rng(0)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stated", "0 characters"),
        ("stated:name=x,subject=os", "subject of the stated rule is 'os'"),
        ("stated:name=x,linear=yes", "linear of the stated rule is 'yes'"),
        ("stated:name=x,frozen=C", "frozen of the stated rule is 'C'"),
        ("stated:name=x,frozen=" + "AB" * 1000, "names 2000 sides"),
        ("stated:name=x,ranks=all", "ranks"),
        ("stated:name=x,personal=AB", "personal"),
        ("stated:name=x,algorithm=os.system", "trait 'algorithm'"),
        ("stated:name=" + "x" * 1000, "1000 characters"),
    ],
)
def test_a_trait_that_makes_no_sense_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        rule_named(text, RULES)
