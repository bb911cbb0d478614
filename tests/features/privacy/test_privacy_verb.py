import json
import math

import pytest
from typer.testing import CliRunner

from plait.cli.app import app
from plait.errors import ConfigError
from plait.features.privacy.accountant import epsilon_at
from plait.features.privacy.card import RECORDS_NOT_COVERED
from plait.features.privacy.events import NoiseIntended, PrivacySpent, PrivacyStarted
from plait.rounds.ledger import Ledger
from tests.features.privacy.test_tables import STARTED, spent
from tests.plait.rounds.conftest import started


@pytest.fixture
def run(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for event in (started(), STARTED, spent(1, 3.1, 1), spent(2, 4.7, 3)):
        ledger.append(event)
    ledger.close()
    return tmp_path


def test_it_shows_the_card_and_epsilon_by_round(run):
    shown = CliRunner().invoke(app, ["privacy", str(run)]).output
    assert "everybody but the server" in shown
    assert "Epsilon by round" in shown
    assert "expect no useful adapter" in " ".join(shown.split())


def test_scripts_read_it_as_json(run):
    said = json.loads(CliRunner().invoke(app, ["privacy", str(run), "--json"]).output)
    assert (said["unit"], said["epsilon"], said["delta"]) == ("client", 8.0, 1e-5)
    assert said["spent_by_round"]["2"]["epsilon"] == 4.7
    assert len(said["not_covered"]) == 5


def test_an_ordinary_run_has_no_guarantee_and_that_is_the_answer(tmp_path):
    shown = CliRunner().invoke(app, ["privacy", run := written(tmp_path / "plain")])
    assert shown.exit_code == 0
    assert "no guarantee: the server sees every update" in shown.output
    assert json.loads(CliRunner().invoke(app, ["privacy", run, "--json"]).output) == {"guarantee": None}


def test_noise_that_is_paid_for_counts_though_its_round_was_never_finished(tmp_path):
    first, second = (
        NoiseIntended(round=number, commitment="", clip_norm=1.0, epsilon=3.0 + number) for number in (1, 2)
    )
    run = written(tmp_path / "killed", STARTED, first, spent(1, 4.0, 1), second)
    shown = " ".join(CliRunner().invoke(app, ["privacy", run]).output.split())
    assert "epsilon 5 of 8 at delta 1e-05, 2 draws of noise" in shown


def written(path, *events):
    path.mkdir()
    ledger = Ledger(path / "ledger.jsonl")
    for event in (started(), *events):
        ledger.append(event)
    ledger.close()
    return str(path)


def test_of_several_runs_it_shows_what_they_cost_together(tmp_path):
    multiplier = 2.0
    promised = STARTED.model_copy(update={"noise_multiplier": multiplier, "continues": True})
    one = written(tmp_path / "one", promised, spent(3, 5.0, 3))
    other = written(tmp_path / "other", promised, spent(2, 4.0, 2))
    said = json.loads(CliRunner().invoke(app, ["privacy", one, other, "--json"]).output)
    mu = math.sqrt(3 / multiplier**2 + 2 / multiplier**2)
    assert said["epsilon"] == pytest.approx(epsilon_at(1e-5, mu))
    assert said["runs"][one]["epsilon"] == 5.0
    shown = " ".join(CliRunner().invoke(app, ["privacy", one, other]).output.split())
    assert "Together" in shown
    assert "compose exactly" in shown
    assert "runs that this one started from" in " ".join(CliRunner().invoke(app, ["privacy", one]).output.split())


def test_accounts_of_clients_add_up_and_other_units_do_not(tmp_path):
    promised = PrivacyStarted(unit="record", delta=1e-5, clients=2)
    runs = [
        written(tmp_path / name, promised, PrivacySpent(round=1, epsilon=3.0, delta=1e-5, by_client=by_client))
        for name, by_client in (("a", {"ada": 1.0, "bob": 3.0}), ("b", {"ada": 2.5, "eve": 3.0}))
    ]
    said = json.loads(CliRunner().invoke(app, ["privacy", *runs, "--json"]).output)
    assert (said["epsilon"], said["delta"]) == (3.5, 2e-5)
    # Under masks no client says what it has spent.
    masked = written(tmp_path / "m", promised, PrivacySpent(round=1, epsilon=8.0, delta=1e-5))
    said = json.loads(CliRunner().invoke(app, ["privacy", *runs, masked, "--json"]).output)
    assert said["epsilon"] == 11.5
    clients = written(tmp_path / "c", STARTED, spent(1, 3.1, 1))
    plain = written(tmp_path / "d")
    for others, message in (
        ([clients], "protect different things"), ([plain], "has no differential privacy"), ([runs[0]], "given twice"),
    ):  # fmt: skip
        error = CliRunner().invoke(app, ["privacy", runs[0], *others]).exception
        assert isinstance(error, ConfigError)
        assert message in str(error)


def test_of_private_records_it_shows_what_each_client_s_have_cost(tmp_path):
    promised = PrivacyStarted(
        unit="record", adjacency="zero-out", observer="everybody, the server too", epsilon=8.0, delta=1e-5, clients=2,
        parameters=100, amplification="by Poisson batches", batch=16, steps=40,
    )  # fmt: skip
    ledger = Ledger(tmp_path / "ledger.jsonl")
    spent = PrivacySpent(round=1, epsilon=3.5, delta=1e-5, by_client={"ada": 3.5, "bob": 2.25})
    for event in (started(), promised, spent):
        ledger.append(event)
    ledger.close()
    shown = CliRunner().invoke(app, ["privacy", str(tmp_path)]).output
    assert "everybody, the server too" in shown
    assert "Epsilon by client" in shown
    assert "2.25" in shown
    said = json.loads(CliRunner().invoke(app, ["privacy", str(tmp_path), "--json"]).output)
    assert said["spent_by_round"]["1"]["by_client"] == {"ada": 3.5, "bob": 2.25}
    assert said["not_covered"] == list(RECORDS_NOT_COVERED)


@pytest.mark.slow
def test_an_estimate_of_private_records_needs_to_know_how_many_there_are():
    plan = [
        "estimate",
        "--base",
        "tiny",
        "--clients",
        "8",
        "--rounds",
        "5",
        "--local-steps",
        "10",
        "--batch-size",
        "64",
    ]
    plan += ["--dp", "record", "--dp-epsilon", "8", "--json"]
    error = CliRunner().invoke(app, plan).exception
    assert isinstance(error, ConfigError)
    assert "dp is 'record' and records is not given; give --records N" in str(error)
    said = json.loads(CliRunner().invoke(app, [*plan, "--records", "1000"]).output)
    noise, size = said["dp_noise_multiplier"], said["trainable_parameters"]
    # As dp-accounting has it for 50 steps of 64 of 1,000 records.
    assert noise == pytest.approx(0.68, abs=0.005)
    assert 7.9 < said["dp_epsilon"] <= 8
    assert said["dp_noise_over_clip"] == pytest.approx(noise * size**0.5 / 64 / 8**0.5)
