from __future__ import annotations

import math

import numpy as np
import pytest

from plait.api.running import start
from plait.attacks.membership import judged, simulated_sides
from plait.config import RunConfig
from plait.rounds.ledger import read_events
from plait.simulation.execution import prepare
from plait.simulation.simulation import Simulation
from plait.training.learner import Learner
from tests.plait.cli.conftest import write_jsonl


@pytest.mark.slow
def test_members_are_exactly_the_sequences_that_were_drawn(tmp_path, monkeypatch) -> None:
    drawn: set[bytes] = set()
    draw = Learner.draw

    def watched(self):
        batches, counted = draw(self)
        drawn.update(example.digest for batch in batches for example in batch)
        return batches, counted

    monkeypatch.setattr(Learner, "draw", watched)
    data = write_jsonl(tmp_path / "my.jsonl")
    settings = RunConfig(
        base="tiny", data=str(data), partition="natural:author", clients=3,
        clients_per_round=2, rounds=2, local_steps=2, batch_size=2, seq_len=32, rank=2,
        max_held_out_sequences=1, dtype="float32", out=str(tmp_path / "run"),
    )  # fmt: skip
    start(settings, quiet=True)
    run, data = prepare(settings, quiet=True)
    events = read_events(tmp_path / "run" / "ledger.jsonl")
    sides = simulated_sides(Simulation(run, data), run, events, most=10_000)
    assert {example.digest for example in sides.members} == drawn
    assert not drawn & {example.digest for example in sides.others}
    # All that is held out, not only what the run evaluates.
    assert len(sides.others) > 3
    few = simulated_sides(Simulation(run, data), run, events, most=3)
    assert (len(few.members), len(few.others)) == (3, 3)


def test_the_area_is_the_probability_that_a_member_scores_higher_with_ties_counting_half():
    members, others = [1.0, 2.0, 2.0, 5.0], [0.0, 2.0, 3.0]
    pairs = [(1.0 if m > o else 0.5 if m == o else 0.0) for m in members for o in others]
    assert judged("x", members, others).auc == pytest.approx(sum(pairs) / len(pairs))
    assert judged("x", others, members).auc == pytest.approx(1 - sum(pairs) / len(pairs))


def test_the_interval_covers_the_truth_in_95_of_100():
    # Two normal distributions whose means differ by 1: the area is Phi(1 / sqrt 2).
    generator, truth = np.random.default_rng(2), 0.5 * math.erfc(-0.5)
    found = [judged("x", generator.normal(1, 1, 80).tolist(), generator.normal(0, 1, 120).tolist()) for _ in range(400)]
    covered = np.mean([abs(each.auc - truth) <= each.margin for each in found])
    assert 0.92 < covered < 0.98


def test_true_positives_are_those_above_all_but_one_in_a_hundred_of_the_others():
    others = list(range(200))
    assert judged("x", [197.0, 197.5, 198.0, 1000.0], others).tpr == 0.75
    # With fewer than 100 none of them may be taken for a member.
    assert judged("x", [9.0, 10.0], list(range(10))).tpr == 0.5


def test_equal_scores_are_no_attack():
    attack = judged("x", [1.0] * 30, [1.0] * 30)
    assert (attack.auc, attack.tpr) == (0.5, 0.0)
