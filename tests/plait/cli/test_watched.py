"""A run that watches itself, as a user sees it."""

import json
from pathlib import Path

import pytest

from plait.ledger.events import Evaluated, Event, RunFinished, StepTakenBack
from plait.ledger.ledger import read_events
from tests.plait.cli.conftest import by_author

pytestmark = pytest.mark.slow


@pytest.fixture
def too_far(jsonl: Path, small: tuple[str, ...]) -> tuple[object, ...]:
    """Options of a run whose steps go far too far."""
    far = ("--rounds", 5, "--server-optimizer", "sgd:lr=40", "--threads", 1, "--personalize", 0)
    return by_author(jsonl, "", small, *far)[:-2]


def events_of(run: Path, kind: type[Event]) -> list[Event]:
    return [event for event in read_events(run / "ledger.jsonl") if isinstance(event, kind)]


def test_steps_that_go_too_far_are_taken_back_and_the_run_says_so(plait, too_far, tmp_path):
    run = tmp_path / "run"
    ran = plait(*too_far, "--keep-updates", "--select", "best", "--out", run)
    assert ran.code == 0, ran.err
    back = events_of(run, StepTakenBack)
    assert back
    assert all(event.sentence in " ".join(ran.err.split()) for event in back)
    page = (run / "report.html").read_text()
    assert all(event.sentence.partition(":")[0] in page for event in back)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps_taken_back"] == [event.round for event in back]
    losses = {event.round: event.loss for event in events_of(run, Evaluated)}
    (end,) = events_of(run, RunFinished)
    assert end.kept_round == min(losses, key=losses.__getitem__) == summary["kept_round"]
    assert summary["final_held_out_loss"] == losses[end.kept_round]
    verified = plait("verify", run)
    assert verified.code == 0, verified.err
    assert f"that of round {end.kept_round}" in verified.out
    assert "5 recomputed, bit for bit" in verified.out


@pytest.mark.parametrize("method", ["lora", "p_tuning"])
def test_a_run_that_ends_above_the_base_publishes_what_it_began_with(plait, too_far, tmp_path, method):
    run, elsewhere = tmp_path / "run", tmp_path / "published"
    ran = plait(*too_far, "--method", method, "--rounds", 1, "--keep-updates", "--publish", elsewhere, "--out", run)
    assert ran.code == 0, ran.err
    assert "that of round 0 stays." in " ".join(ran.err.split())
    assert "No adapter was better than the base" in (run / "report.html").read_text()
    before, after = events_of(run, Evaluated)
    assert after.loss > before.loss
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["kept_round"], summary["final_held_out_loss"]) == (0, before.loss)
    verified = plait("verify", run)
    assert verified.code == 0, verified.err
    assert "that of round 0" in verified.out
    card = (run / "adapter" / "README.md").read_text()
    assert "| Rounds | 0 |" in card
    assert card.count(f" | {before.loss:.4f} |") == 2, "base and adapter"
    assert (elsewhere / "latest" / "README.md").read_text() == card
