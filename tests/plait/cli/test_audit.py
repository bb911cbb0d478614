"""`plait audit`: attacks on finished runs of the command."""

import json
import re
import shutil
from pathlib import Path

import pytest

from plait.ledger.ledger import read_events
from tests.commands import resuming
from tests.plait.conftest import begun_otherwise, recorded
from tests.plait.rounds.conftest import started

pytestmark = pytest.mark.slow  # they look at runs of the command


def test_the_sequences_of_a_simulation_are_told_apart_and_nothing_is_recorded(finished, plait):
    before = (finished / "ledger.jsonl").read_bytes()
    ran = plait("audit", finished, *resuming(finished)[2:], "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    # 3 clients, 2 rounds, 2 steps of 2 sequences; some are drawn in both rounds.
    assert 3 * 4 < found["members"] <= 3 * 2 * 4
    assert found["others"] >= 3
    names = [attack["name"] for attack in found["attacks"]]
    assert names == ["loss, against the base's", "control: loss of the base"]
    assert all(0 <= attack["auc"] <= 1 for attack in found["attacks"])
    assert found["epsilon_bound"] is found["epsilon_promised"] is None
    assert (finished / "ledger.jsonl").read_bytes() == before


def test_what_is_recorded_stands_in_ledger_summary_and_report(finished, plait):
    ran = plait("audit", finished, *resuming(finished)[2:], "--record")
    assert ran.code == 0, ran.err
    assert "against" in ran.out
    assert "nothing bounds what other attacks find" in ran.err
    event = read_events(finished / "ledger.jsonl")[-1]
    assert event.event == "audited"
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary["membership"]) == {attack.name for attack in event.attacks}
    assert "<summary>Attacks</summary>" in (finished / "report.html").read_text()
    verified = plait("verify", finished)
    assert verified.code == 0, verified.err
    assert "that of round 2" in verified.out


@pytest.fixture(scope="module")
def private(original: Path, small: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from typer.testing import CliRunner

    from plait.cli.app import app

    out = tmp_path_factory.mktemp("private") / "run"
    options = [
        "simulate", "--data", original / "my.jsonl", "--partition", "natural:author", "--clients", 3, *small,
        "--dp", "client", "--dp-epsilon", 4, "--dtype", "float32", "--out", out, "--json",
    ]  # fmt: skip
    ran = CliRunner().invoke(app, list(map(str, options)))
    assert ran.exit_code == 0, ran.exception
    return out


def test_canary_clients_prove_less_than_a_private_run_promises(private, tmp_path, plait):
    run = Path(shutil.copytree(private, tmp_path / "run"))
    ran = plait("audit", run, *resuming(run)[2:], "--record", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["epsilon_promised"] == pytest.approx(4.0, rel=1e-6)
    assert 0.5 < found["epsilon_bound"] < found["epsilon_promised"] < found["epsilon_bound_most"] + 1
    assert found["members"] > 0
    shown = " ".join(plait("privacy", run).out.split())
    assert f"canary clients prove epsilon of at least {found['epsilon_bound']:.3g}" in shown
    assert json.loads((run / "summary.json").read_text())["dp_audit_bound"] == found["epsilon_bound"]
    assert plait("verify", run).code == 0


def test_where_clients_brought_their_own_data_one_of_them_audits_with_its_own(private, original, tmp_path, plait):
    run = Path(shutil.copytree(private, tmp_path / "run"))
    begun_otherwise(run, lambda config: re.sub(r"^(data|partition) = .*$", r'\1 = ""', config, flags=re.MULTILINE))
    alone = plait("audit", run, *resuming(run)[2:])
    assert alone.code == 0, alone.err
    assert "Membership" not in alone.out
    assert "PASS: consistent with the promised epsilon 4 at delta 1e-05" in alone.err
    found = json.loads(plait("audit", run, *resuming(run)[2:], "--data", original / "my.jsonl", "--json").out)
    assert found["members"] > found["others"] > 0


def test_what_cannot_be_attacked_is_said_in_one_line(finished, tmp_path, plait):
    ran = plait("audit", finished, *resuming(finished)[2:], "--data", finished.parent / "other.jsonl")
    assert ran.code == 2
    assert ran.err.splitlines()[-1].endswith("leave --data out")
    (tmp_path / "begun").mkdir()
    recorded(tmp_path / "begun" / "ledger.jsonl", [started()])
    ran = plait("audit", tmp_path / "begun")
    assert ran.code == 2
    assert "is not finished; `plait resume" in ran.err
