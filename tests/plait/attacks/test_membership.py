import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from plait.api.running import start
from plait.attacks.membership import judged, sides_of, simulated_sides
from plait.config import RunConfig
from plait.data import as_dataset
from plait.errors import ConfigError
from plait.ledger.ledger import read_events
from plait.simulation.execution import prepare
from plait.simulation.simulation import Simulation
from plait.training.holding_out import place_of
from plait.training.learner import Learner
from tests.plait.cli.conftest import write_jsonl


@pytest.mark.slow
def test_members_are_exactly_the_sequences_that_were_drawn(tmp_path, monkeypatch):
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
    assert {example.digest for (example,) in sides.members} == drawn
    assert not drawn & {example.digest for (example,) in sides.others}
    # All that is held out, not only what the run evaluates.
    assert len(sides.others) > 3
    few = simulated_sides(Simulation(run, data.partition.shares), run, events, most=3)
    assert (len(few.members), len(few.others)) == (3, 3)


@pytest.mark.slow
def test_a_client_s_own_audit_has_no_person_on_both_sides():
    notes = [{"text": f"note {number} of {number % 40}", "patient": f"p{number % 40}"} for number in range(200)]
    settings = RunConfig(base="tiny", data="", group="patient", dp="record", dp_epsilon=4.0, seq_len=32)
    _, sides = sides_of(settings, [], as_dataset(notes), most=1000)
    members, others = ({notes[each.record]["patient"] for (each,) in side} for side in (sides.members, sides.others))
    assert not members & others
    assert len(members | others) == 40


@pytest.mark.slow
def test_as_many_persons_are_trained_as_held_out_each_with_all_notes_and_a_run_s_groups_are_its_own():
    notes = [{"text": f"note {number} of {number % 1000}", "person": f"p{number % 1000}"} for number in range(2000)]
    settings = RunConfig(base="tiny", data="", seq_len=32)
    _, sides = sides_of(settings, [], as_dataset(notes), most=1000, group="person")
    assert all(len({notes[each.record]["person"] for each in unit}) == 1 for unit in (*sides.members, *sides.others))
    assert {len(unit) for unit in (*sides.members, *sides.others)} == {2}
    held_out = {f"p{number}" for number in range(1000) if place_of(f"p{number}") < 0.1}
    assert {notes[unit[0].record]["person"] for unit in sides.others} == held_out
    # As many of the others are trained as a coin gives, within four standard deviations.
    assert abs(len(sides.members) - 100) < 4 * 10
    with pytest.raises(ConfigError, match="the run held data out by 'patient'"):
        sides_of(RunConfig(data="stdlib", group="patient"), [], None, most=10, group="person")


@pytest.fixture(scope="module")
def audit_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], str]]:
    """Train on 600 notes of 300 persons at three sites, whose codes must be learned by heart; attack the persons."""
    from typer.testing import CliRunner

    from plait.cli.app import app

    drawn = random.Random(0)

    def letters(count: int) -> str:
        return "".join(drawn.choices("abcdefghijklmnopqrstuvwxyz", k=count))

    folder = tmp_path_factory.mktemp("persons")
    data, persons = folder / "notes.jsonl", [f"p{number}" for number in range(300)]
    notes = [
        {"text": letters(8), "label": letters(1), "site": f"s{number % 3}", "patient": person}
        for number, person in enumerate(persons)
        for _ in range(2)
    ]
    data.write_text("".join(json.dumps(note) + "\n" for note in notes))

    def audited(name: str, **options: Any) -> tuple[dict[str, Any], str]:
        settings = RunConfig(
            base="tiny", data=str(data), partition="natural:site", clients=3, seq_len=16, threads=1,
            group="patient", held_out_fraction=0.5, select="last", out=str(folder / name), **options,
        )  # fmt: skip
        start(settings, quiet=True)
        said, figures = (
            CliRunner().invoke(app, ["audit", settings.out, "--group", "patient", "--allow", f"data={data}", how])
            for how in ("--record", "--json")
        )
        assert said.exit_code == figures.exit_code == 0, said.exception or figures.exception
        return json.loads(figures.stdout), " ".join(said.output.split())

    return audited


@pytest.mark.slow
def test_without_noise_persons_are_told_apart_beyond_epsilon_4(audit_of):
    found, said = audit_of("plain", rounds=5, local_steps=40, batch_size=16, eval_every=5)
    assert found["members"] + found["others"] == 300
    assert (found["group"], found["delta"], found["epsilon_promised"]) == ("patient", 1e-5, None)
    assert found["epsilon_bound"] > 4
    assert "trained groups ('patient') against" in said
    assert "the run promises no epsilon of groups ('patient'): 300 show at least 4." in said


@pytest.mark.slow
def test_at_epsilon_4_no_more_is_found_of_persons_than_is_promised(audit_of):
    found, said = audit_of("private", rounds=2, local_steps=10, batch_size=8, dp="record", dp_epsilon=4.0)
    assert found["epsilon_bound"] <= found["epsilon_promised"] <= 4 < found["epsilon_bound_most"]
    assert "PASS: consistent with the promised epsilon 4 at delta 1e-05: 300 groups ('patient') show" in said


def test_the_area_is_the_probability_that_a_member_scores_higher_with_ties_counting_half():
    members, others = [1.0, 2.0, 2.0, 5.0], [0.0, 2.0, 3.0]
    pairs = [(1.0 if m > o else 0.5 if m == o else 0.0) for m in members for o in others]
    assert judged("x", members, others).auc == pytest.approx(sum(pairs) / len(pairs))
    assert judged("x", others, members).auc == pytest.approx(1 - sum(pairs) / len(pairs))
