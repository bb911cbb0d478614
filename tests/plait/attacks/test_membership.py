from __future__ import annotations

import pytest

from plait.api.running import start
from plait.attacks.membership import judged, sides_of, simulated_sides
from plait.config import RunConfig
from plait.data import as_dataset
from plait.ledger.ledger import read_events
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
    sides = simulated_sides(Simulation(run, data.partition.shares), run, events, most=10_000)
    assert {example.digest for example in sides.members} == drawn
    assert not drawn & {example.digest for example in sides.others}
    # All that is held out, not only what the run evaluates.
    assert len(sides.others) > 3
    few = simulated_sides(Simulation(run, data.partition.shares), run, events, most=3)
    assert (len(few.members), len(few.others)) == (3, 3)


@pytest.mark.slow
def test_a_client_s_own_audit_has_no_person_on_both_sides() -> None:
    notes = [{"text": f"note {number} of {number % 40}", "patient": f"p{number % 40}"} for number in range(200)]
    settings = RunConfig(base="tiny", data="", group="patient", dp="record", dp_epsilon=4.0, seq_len=32)
    _, sides = sides_of(settings, [], as_dataset(notes), most=1000)
    members, others = ({notes[each.record]["patient"] for each in side} for side in (sides.members, sides.others))
    assert not members & others
    assert len(members | others) == 40


def test_the_area_is_the_probability_that_a_member_scores_higher_with_ties_counting_half():
    members, others = [1.0, 2.0, 2.0, 5.0], [0.0, 2.0, 3.0]
    pairs = [(1.0 if m > o else 0.5 if m == o else 0.0) for m in members for o in others]
    assert judged("x", members, others).auc == pytest.approx(sum(pairs) / len(pairs))
    assert judged("x", others, members).auc == pytest.approx(1 - sum(pairs) / len(pairs))
