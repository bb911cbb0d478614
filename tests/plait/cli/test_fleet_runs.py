"""Runs of a simulated fleet by a virtual clock: kills change neither bits nor times."""

import json
from pathlib import Path

import pytest

from plait.ledger.fleet import figures_of, tasks_of
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.report.plots import fleet_round
from plait.report.theme import LIGHT, draw
from tests.commands import resuming, run_command

FLEET = """
notice_s = 20

[[device]]
name = "slow"
tokens_per_s = 20
up_mbps = 0.5
down_mbps = 2
watts = 5
battery_wh = 100

[[device]]
name = "fast"
tokens_per_s = 200
up_mbps = 5
down_mbps = 20
count = 2
dropout = 0.3
watts = 50
"""

# Kills the process once the ledger has so many events of a kind.
KILLED = """
import os, sys
from plait.cli.main import main
from plait.ledger.ledger import Ledger

name, left = sys.argv.pop(1), int(sys.argv.pop(1))
write = Ledger._write

def counted(self, event, *, durable):
    global left
    write(self, event, durable=durable)
    left -= event.event == name
    if not left:
        os.kill(os.getpid(), 9)

Ledger._write = counted
main()
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fleet") / "fleet.toml"
    path.write_text(FLEET)
    return path


def options(jsonl: Path, small: tuple[str, ...], fleet: Path) -> tuple[str, ...]:
    data = ("--data", str(jsonl), "--partition", "natural:author", "--clients", "3", "--dtype", "float32")
    return (*data, *small, "--fleet", str(fleet), "--seed", "4", "--threads", "1")


def killed(event: str, count: int, *arguments: str) -> None:
    assert run_command(event, count, *arguments, program=KILLED).returncode == -9


@pytest.mark.slow
def test_a_run_that_is_killed_ends_with_the_same_bits_at_the_same_virtual_time(plait, jsonl, small, fleet, tmp_path):
    cohort = ("--clients-per-round", "2", "--deadline-s", "60", "--seed", "6")  # with which a device fails in round 2
    arguments = (*options(jsonl, small, fleet), *cohort)
    whole = plait("simulate", *arguments, "--out", tmp_path / "whole", "--json")
    assert whole.code == 0, whole.err
    # In the second round, and then in the evaluation after it.
    killed("update_received", 3, "simulate", *arguments, "--out", str(tmp_path / "killed"))
    killed("reply_received", 4, *resuming(tmp_path / "killed"))
    again = plait(*resuming(tmp_path / "killed"), "--json")
    assert again.code == 0, again.err

    views = [RunView.of(read_events(tmp_path / run / "ledger.jsonl")) for run in ("whole", "killed")]
    one, other = ([(each.adapter, each.virtual_s) for each in view.rounds.values()] for view in views)
    assert one == other
    one, other = ([(each.loss, each.virtual_s) for each in view.evaluations.values()] for view in views)
    assert one == other
    untold = {"seq": 0, "time": 0.0, "hash": ""}
    one, other = ([span.model_copy(update=untold) for span in tasks_of(view)] for view in views)
    assert one == other
    summary = json.loads(again.out)
    assert summary["virtual_s"] == json.loads(whole.out)["virtual_s"] == views[0].evaluations[2].virtual_s
    assert summary["virtual_s_by_round"] == [each.virtual_s for each in views[0].evaluations.values()]
    assert summary["energy_j"] == pytest.approx(figures_of(views[0])["energy_j"])
    assert {span.outcome for span in tasks_of(views[0]) if span.is_training} == {"answered", "dropped"}
    assert (tmp_path / "killed" / "fleet.png").exists()
    assert len(draw(lambda: fleet_round(views[1], LIGHT))) > 1000


@pytest.mark.slow
def test_a_run_goes_on_with_the_devices_that_it_began_with(plait, jsonl, small, fleet, tmp_path):
    out = tmp_path / "run"
    killed("update_received", 1, "simulate", *options(jsonl, small, fleet), "--out", str(out))
    fleet.write_text(FLEET.replace("count = 2", "count = 3"))
    ran = plait(*resuming(out))
    fleet.write_text(FLEET)
    assert (ran.code, "has changed since the run began" in ran.err) == (2, True)
