"""plait's own objectives keep the contract of a user's own, and broken ones do not."""

from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import Field

import plait
from plait.errors import ConfigError
from plait.objectives.formula import formula_named
from plait.own_code import checked
from plait.plugins import Kind, reference
from plait.training.contract import OBJECTIVE_CHECKS, REWARD_CHECKS
from plait.training.own_functions import reward_named


@dataclass(frozen=True)
class Hinge:
    """Max(0, margin - lead)."""

    margin: Annotated[float, Field(gt=0, description="lead that the chosen reply should have, in nats")] = 1.0

    def losses(self, sides):
        """The loss of each example."""
        return (self.margin - self.reward(sides.chosen) + self.reward(sides.rejected)).relu()

    def reward(self, reply):
        """The reward of each reply."""
        return reply.gained


@pytest.mark.parametrize("name", ["dpo", "mine"])
def test_an_objective_keeps_the_contract(name):
    text = f"{reference(Kind.OBJECTIVE, Hinge)}:margin=9" if name == "mine" else name
    for verdict in checked(formula_named(text), OBJECTIVE_CHECKS):
        assert verdict.holds is not False, (verdict.claim, verdict.detail)


class Mean(Hinge):
    def losses(self, sides):
        return super().losses(sides).mean()


class Falling(Hinge):
    def reward(self, reply):
        return -reply.gained


def test_a_broken_objective_is_told_which_claim_it_breaks():
    for part, broken in ((Mean(), 0), (Falling(), 1)):
        verdicts = [*checked(part, OBJECTIVE_CHECKS)]
        assert verdicts[broken].holds is False, verdicts
    with pytest.raises(ConfigError, match="without losses and reward"):
        formula_named(reference(Kind.OBJECTIVE, int))
    with pytest.raises(ConfigError, match=r"margin of objective .* is '-1', expected greater than 0"):
        formula_named(f"{reference(Kind.OBJECTIVE, Hinge)}:margin=-1")


def length(prompt: str, completion: str, answer: str) -> float:
    return float(len(completion))


def first_number(prompt: str, completion: str, answer: str) -> float:
    return float(int(completion))


def test_a_reward_is_checked_on_odd_completions():
    assert all(each.holds for each in checked(reward_named(reference(Kind.REWARD, length)), REWARD_CHECKS))
    verdict, *_ = checked(reward_named(reference(Kind.REWARD, first_number)), REWARD_CHECKS)
    assert verdict.holds is False
    assert "of '': it failed: ValueError" in verdict.detail


@pytest.mark.slow
def test_a_run_learns_by_an_objective_of_ones_own(tmp_path):
    words = ("red", "blue", "green", "one", "two")
    pairs = [{"prompt": f"{a} {b}", "chosen": f"{b} {a}", "rejected": f"{a}"} for a in words for b in words if a != b]
    run = plait.simulate(
        data=pairs, base="tiny", clients=1, rounds=1, local_steps=6, batch_size=4, seq_len=40, rank=2,
        objective=Hinge(margin=3.0), out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    before, after = run.losses["loss"].iloc[0], run.losses["loss"].iloc[-1]
    assert after < before == pytest.approx(3.0, abs=0.01)
