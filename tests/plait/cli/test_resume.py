import json
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from plait.config import config_from_table, to_toml
from plait.ledger.events import parse_event
from plait.ledger.ledger import read_lines
from plait.rounds.run_directory import RunDirectory
from tests.commands import Command, resuming, run_command
from tests.plait.cli.conftest import by_author
from tests.plait.conftest import recorded, run_started
from tests.waiting import until

pytestmark = pytest.mark.slow  # several runs in processes of their own

WEIGHTS = "adapter/adapter_model.safetensors"


def started(jsonl: Path, out: Path, small: tuple[str, ...], *more: object) -> Command:
    return Command(*by_author(jsonl, out, small, *more), stderr=subprocess.PIPE)


def wait_for(out: Path, event: str, count: int) -> None:
    """Until the ledger has so many events of a kind."""
    ledger = out / "ledger.jsonl"
    until(lambda: ledger.exists() and ledger.read_text().count(f'"event":"{event}"') >= count, event, patience_s=300)


def test_a_run_from_another_adapter_that_is_killed_ends_bit_identical(original, plait, jsonl, tmp_path, small):
    over = ("--init-adapter", original / "run")
    undisturbed = started(jsonl, tmp_path / "undisturbed", small, *over)
    _, err = undisturbed.communicate(timeout=120)
    assert undisturbed.returncode == 0, err
    out = tmp_path / "killed"
    process = started(jsonl, out, small, *over)
    wait_for(out, "update_received", 4)
    process.kill()
    process.wait()
    process.stderr.close()
    assert plait(*resuming(out)).code == 0
    weights = (out / WEIGHTS).read_bytes()
    assert weights == (tmp_path / "undisturbed" / WEIGHTS).read_bytes()
    assert weights != (original / "run" / WEIGHTS).read_bytes()
    assert plait("verify", out).code == 0


def test_ctrl_c_saves_the_state_and_says_how_to_go_on(original, plait, jsonl, tmp_path, small):
    out = tmp_path / "stopped"
    process = started(jsonl, out, small)
    wait_for(out, "update_received", 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "stopping after the current client" in err
    assert f"plait resume {out}" in err
    assert read_lines(out / "ledger.jsonl")[-1]["event"] == "interrupted"
    assert plait(*resuming(out)).code == 0
    assert (out / WEIGHTS).read_bytes() == (original / "run" / WEIGHTS).read_bytes()
    assert plait("verify", out).code == 0


# What a process does before it goes on as the command, and where it is stopped there.
STOPPED = """
import sys
from plait.report import summary as report
from plait.cli.main import main
from plait.ledger.events import RunFinished
from plait.ledger.ledger import Ledger
from tests.killing import around

where, number = sys.argv.pop(1), int(sys.argv.pop(1))
if where == "before run_finished":
    around(Ledger, "append", lambda _, event: isinstance(event, RunFinished), before=True, number=number)
else:
    around(report, "write_report", before=True, number=number)
main()
"""


@pytest.mark.parametrize(
    ("where", "number"),
    [
        ("before run_finished", signal.SIGKILL),
        ("before the report", signal.SIGKILL),
        ("before the report", signal.SIGINT),
    ],
)
def test_a_run_that_was_stopped_after_its_last_round_is_finished_by_resume(
    where, number, original, plait, jsonl, tmp_path, small
):
    out = tmp_path / "stopped"
    stopped = run_command(where, int(number), *by_author(jsonl, out, small), program=STOPPED)
    assert stopped.returncode == (130 if number is signal.SIGINT else -number), stopped.stderr
    if number is signal.SIGINT:
        assert stopped.stderr.splitlines()[-1].endswith(f"continue with: {shlex.join(['plait', *resuming(out)])}")
    assert not (out / "report.html").exists()
    rounds = [event["event"] for event in read_lines(out / "ledger.jsonl")].count("round_finished")
    assert rounds == 2

    ran = plait(*resuming(out), "--json")

    assert ran.code == 0, ran.err
    events = [event["event"] for event in read_lines(out / "ledger.jsonl")]
    assert events.count("round_finished") == 2
    assert events.count("run_finished") == 1
    assert (out / "report.html").exists()
    assert json.loads(ran.out) == json.loads((out / "summary.json").read_text())
    assert (out / WEIGHTS).read_bytes() == (original / "run" / WEIGHTS).read_bytes()
    again = plait(*resuming(out))
    assert (again.code, "there is nothing to resume" in again.err) == (2, True)


def test_what_a_run_from_elsewhere_names_is_named_again_to_be_used(tmp_path, plait):
    for key in ("fleet", "init-adapter"):
        config = config_from_table({"base": "tiny", key: "somewhere"})
        directory = RunDirectory.create(tmp_path / key, config_toml=to_toml(config))
        recorded(directory.ledger, [parse_event(run_started(config=config.to_table()))])
        assert f"--allow {key}=somewhere" in plait("resume", tmp_path / key, "--withdraw", "ada").err
