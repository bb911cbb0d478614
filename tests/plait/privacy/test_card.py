import json
import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from plait.cli.app import app
from plait.errors import ConfigError
from plait.guarantees import epsilon_at
from plait.ledger.events import Audited
from plait.ledger.privacy import (
    NOT_COVERED,
    NoiseIntended,
    PrivacyCard,
    PrivacySpent,
    PrivacyStarted,
)
from plait.ledger.run_now import RunNow
from plait.report.privacy import epsilon_table, figures_of
from plait.report.status import status_tables
from plait.report.summary import summarise
from server.hosting import HostedRun, Hosting, Terms, status_of_host
from server.sessions import Sessions
from tests.plait.conftest import recorded, run_started, view_of
from tests.plait.rounds.conftest import started

STARTED = PrivacyStarted(
    unit="client", adjacency="zero-out", observer="everybody but the server", epsilon=8.0, delta=1e-5,
    noise_multiplier=1.34, update_multiplier=1.34, clip_norm=0.5, clients=100, parameters=2_440_000,
    noise_over_clip=21.0, amplification="none: on record", key_check="ab" * 32,
)  # fmt: skip


def without_privacy():
    return view_of([run_started()])


def spent(number: int, epsilon: float, charges: int) -> PrivacySpent:
    return PrivacySpent(round=number, epsilon=epsilon, delta=1e-5, charges=charges, clip_norm=0.5)


def card_of(view) -> PrivacyCard:
    (card,) = view.cards.values()
    return card


@pytest.fixture
def view():
    view = without_privacy()
    for event in (STARTED, spent(1, 3.1, 1), spent(2, 4.7, 3)):
        view.take(event)
    return view


def test_the_summary_has_unit_epsilon_delta_and_epsilon_by_round(view):
    summary = summarise(view)
    assert {key: summary[key] for key in ("dp_unit", "dp_epsilon", "dp_delta")} == {
        "dp_unit": "client", "dp_epsilon": 4.7, "dp_delta": 1e-5,
    }  # fmt: skip
    assert summary["dp_epsilon_by_round"] == [0.0, 3.1, 4.7]
    without = summarise(without_privacy())
    assert [key for key in without if key.startswith("dp_")] == ["dp_audit_bound"]


def test_the_card_says_who_is_protected_from_whom_and_what_is_not_covered(view):
    facts = dict(card_of(view).facts)
    assert facts["Protected"] == "everything that one client's data changed, in all rounds together"
    assert facts["From"].startswith("everybody but the server")
    assert facts["Spent"] == "epsilon 4.7 of 8 at delta 1e-05, 3 draws of noise"
    assert [text for name, text in card_of(view).facts if name == "Not covered"] == [*NOT_COVERED]
    assert "21 times the clip norm: expect no useful adapter" in card_of(view).warning
    quiet = STARTED.model_copy(update={"noise_over_clip": 2.9})
    assert PrivacyCard(quiet).warning == ""
    assert PrivacyCard(quiet).epsilon_text == "epsilon 0 of 8 at delta 1e-05"


def test_status_shows_what_is_spent():
    now = RunNow()
    now.take(STARTED)
    now.take(spent(1, 3.1, 1))
    hosting = Hosting(Sessions(max_nodes=1))
    assert json.loads(status_of_host(hosting))["told"] == {}
    of_nobody = cast("Any", SimpleNamespace(all=list))
    run = HostedRun(
        Terms(1, {}, b""), tasks=of_nobody, uploads=of_nobody, max_answer_bytes=1, progress=lambda: nullcontext(now)
    )
    hosting.host(run)
    said = json.loads(status_of_host(hosting))
    text = "epsilon 3.1 of 8 at delta 1e-05, by client"
    of_privacy = {"unit": "client", "epsilon": 3.1, "budget": 8.0, "delta": 1e-5, "text": text}
    assert said["told"] == {"Differential privacy": of_privacy}
    (table, *_) = status_tables(said)
    assert ("Differential privacy", text) in table.rows


def shown(*runs: str) -> str:
    """What the command says of runs, in one line."""
    ran = CliRunner().invoke(app, ["privacy", *runs])
    assert ran.exit_code == 0
    return " ".join(ran.output.split())


def as_json(*runs: str) -> dict[str, Any]:
    return json.loads(CliRunner().invoke(app, ["privacy", *runs, "--json"]).output)


def test_it_shows_the_card_and_epsilon_by_round_and_that_an_ordinary_run_has_no_guarantee(tmp_path):
    run = written(tmp_path / "run", STARTED, spent(1, 3.1, 1), spent(2, 4.7, 3))
    assert "everybody but the server" in shown(run)
    assert "Epsilon by round" in shown(run)
    assert "expect no useful adapter" in shown(run)
    found = as_json(run)
    assert (found["unit"], found["epsilon"], found["delta"]) == ("client", 8.0, 1e-5)
    assert found["spent_by_round"]["2"]["epsilon"] == 4.7
    assert found["not_covered"] == list(NOT_COVERED)
    plain = written(tmp_path / "plain")
    assert "no guarantee: the server sees every update" in shown(plain)
    assert as_json(plain) == {"guarantee": None}


def test_noise_that_is_paid_for_counts_though_its_round_was_never_finished(tmp_path):
    first, second = (
        NoiseIntended(round=number, commitment="", clip_norm=1.0, epsilon=3.0 + number) for number in (1, 2)
    )
    run = written(tmp_path / "killed", STARTED, first, spent(1, 4.0, 1), second)
    assert "epsilon 5 of 8 at delta 1e-05, 2 draws of noise" in shown(run)


def written(path, *events):
    path.mkdir()
    recorded(path / "ledger.jsonl", (started(), *events))
    return str(path)


def test_of_several_runs_it_shows_what_they_cost_together(tmp_path):
    multiplier = 2.0
    promised = STARTED.model_copy(update={"noise_multiplier": multiplier, "continues": True})
    one = written(tmp_path / "one", promised, spent(3, 5.0, 3))
    other = written(tmp_path / "other", promised, spent(2, 4.0, 2))
    found, mu = as_json(one, other), math.sqrt(3 / multiplier**2 + 2 / multiplier**2)
    assert found["epsilon"] == pytest.approx(epsilon_at(1e-5, mu))
    assert found["runs"][one]["epsilon"] == 5.0
    assert "compose exactly" in shown(one, other)
    assert "runs that this one started from" in shown(one)


def test_accounts_of_clients_add_up_and_other_units_do_not(tmp_path):
    promised = PrivacyStarted(unit="record", delta=1e-5, clients=2)
    runs = [
        written(tmp_path / name, promised, PrivacySpent(round=1, epsilon=3.0, delta=1e-5, by_client=by_client))
        for name, by_client in (("a", {"ada": 1.0, "bob": 3.0}), ("b", {"ada": 2.5, "eve": 3.0}))
    ]
    found = as_json(*runs)
    assert (found["epsilon"], found["delta"]) == (3.5, 2e-5)
    # Under masks no client says what it has spent.
    masked = written(tmp_path / "m", promised, PrivacySpent(round=1, epsilon=8.0, delta=1e-5))
    assert as_json(*runs, masked)["epsilon"] == 11.5
    clients = written(tmp_path / "c", STARTED, spent(1, 3.1, 1))
    plain = written(tmp_path / "d")
    for others, message in (
        ([clients], "protect different things"), ([plain], "has no differential privacy"), ([runs[0]], "given twice"),
    ):  # fmt: skip
        error = CliRunner().invoke(app, ["privacy", runs[0], *others]).exception
        assert isinstance(error, ConfigError)
        assert message in str(error)


def test_under_masks_nothing_is_told_that_only_the_clients_know(tmp_path):
    promised = PrivacyStarted(unit="record", epsilon=8.0, delta=1e-5, clients=3, batch=16, steps=40)
    paid = [PrivacySpent(round=number, epsilon=8.0, delta=1e-5) for number in (1, 2)]
    card = PrivacyCard.of([promised, *paid])
    assert card.line(paid[0]) == ""
    assert card.epsilon_text == "epsilon of at most 8 at delta 1e-05"
    assert paid[0].logged["privacy/epsilon"] is None
    view = without_privacy()
    for event in (promised, *paid):
        view.take(event)
    assert not epsilon_table(view).rows
    assert figures_of(view)["dp_epsilon_by_round"] == [0.0]
    told = shown(written(tmp_path / "run", promised, *paid))
    assert "under masks none reports what it has spent" in told
    assert "8 of 8" not in told


def test_the_card_of_groups_has_what_guesses_about_them_prove():
    promised = PrivacyStarted(unit="group", group="patient", epsilon=4.0, delta=1e-5, clients=3, batch=8, steps=20)
    audited = Audited(adapter="", members=151, others=149, group="patient", epsilon_bound=0.118, epsilon_most=4.19)
    bound = dict(PrivacyCard.of([promised, audited]).facts)["Audit bound"]
    assert bound.startswith("300 groups ('patient') prove epsilon of at least 0.118 with 95 % certainty")


@pytest.mark.slow
def test_an_estimate_of_private_records_needs_to_know_how_many_there_are():
    steps = ["--rounds", "5", "--local-steps", "10", "--batch-size", "64"]
    plan = ["estimate", "--base", "tiny", "--clients", "8", *steps, "--dp", "record", "--dp-epsilon", "8", "--json"]
    error = CliRunner().invoke(app, plan).exception
    assert isinstance(error, ConfigError)
    assert "dp is 'record' and records is not given; give --records N" in str(error)
    said = json.loads(CliRunner().invoke(app, [*plan, "--records", "1000"]).output)
    noise, size = said["dp_noise_multiplier"], said["trainable_parameters"]
    # As dp-accounting has it for 50 steps of 64 of 1,000 records.
    assert noise == pytest.approx(0.68, abs=0.005)
    assert 7.9 < said["dp_epsilon"] <= 8
    assert said["dp_noise_over_clip"] == pytest.approx(noise * size**0.5 / 64 / 8**0.5)
