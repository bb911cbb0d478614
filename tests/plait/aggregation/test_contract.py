"""The contract of every rule and server optimizer in the tables; the checks are those of `plait check-plugin`."""

import numpy as np
import pytest

from plait.aggregation import OPTIMIZERS, RULES, Exactness
from plait.aggregation.contract import OPTIMIZER_CHECKS, RULE_CHECKS, cohort_of
from plait.aggregation.own_rule import rule
from plait.flower import ALL_RULES
from plait.own_code import checked


def claims(part, checks):
    return {verdict.claim: verdict for verdict in checked(part, checks)}


@pytest.mark.parametrize("name", ALL_RULES)
def test_every_rule_keeps_its_contract(name):
    found = claims(ALL_RULES[name], RULE_CHECKS)
    assert [verdict for verdict in found.values() if verdict.holds is False] == []
    rule = ALL_RULES[name]
    assert rule.name == name
    claimed = {"linear": rule.linear, "exact": rule.exactness is Exactness.EXACT, "the order": name in RULES}
    for claim, is_made in claimed.items():
        verdict = next(verdict for text, verdict in found.items() if text.startswith(claim))
        assert verdict.holds or not is_made or rule.subject.name == "SQUARES"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_server_optimizer_keeps_its_contract(name):
    assert [verdict for verdict in claims(OPTIMIZERS[name], OPTIMIZER_CHECKS).values() if not verdict.holds] == []


def mean(updates):
    return updates.weights @ updates.deltas / updates.weights.sum()


def _spoils(updates, ctx):
    updates.contributions[0].delta.flat.setflags(write=True)
    updates.contributions[0].delta.flat[:] = 0
    return mean(updates)


class _Hoards:
    def __init__(self, context):
        self.kept = []

    def add(self, contribution):
        self.kept.append(contribution.delta.flat.copy())

    def finish(self):
        return np.mean(self.kept, axis=0)


BROKEN = {
    "is finite": rule(lambda updates, ctx: np.full(updates.deltas.shape[1], np.inf)),
    "same bits": rule(lambda updates, ctx: mean(updates) + np.random.default_rng().normal()),
    "are not changed": rule(_spoils),
    "ratio of the weights": rule(lambda updates, ctx: updates.weights @ updates.deltas),
    "linear": rule(linear=True)(lambda updates, ctx: np.median(updates.deltas, axis=0)),
    "exact": rule(exactness=Exactness.EXACT)(lambda updates, ctx: mean(updates)),
    "memory": rule(_Hoards),
    "do not train": rule(frozen=RULES["ffa"].frozen)(lambda updates, ctx: mean(updates) + 1),
    "lower rank": rule(ranks=RULES["hetlora"].ranks)(lambda updates, ctx: mean(updates)),
}


@pytest.mark.parametrize("claim", BROKEN)
def test_a_rule_that_breaks_a_claim_is_found_out(claim):
    found = claims(BROKEN[claim], RULE_CHECKS)
    (verdict,) = (verdict for text, verdict in found.items() if claim in text)
    assert verdict.holds is False, found
    assert verdict.detail


def test_an_optimizer_that_keeps_more_than_it_states_is_found_out():
    class Keeps(type(OPTIMIZERS["sgd"])):
        copies = 0

    broken = [verdict.claim for verdict in claims(Keeps(), OPTIMIZER_CHECKS).values() if not verdict.holds]
    assert broken == ["it keeps no more than it states"]


def test_a_round_without_updates_has_no_result():
    context, _ = cohort_of(RULES["fedavg"])
    with pytest.raises(ValueError, match="no update"):
        RULES["fedavg"].begin(context).finish()
