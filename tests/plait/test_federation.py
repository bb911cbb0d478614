import shutil
import time
from dataclasses import replace

import pytest

from plait import federation
from plait.composition import opened
from plait.config import RunConfig, config_from_table
from plait.federation import _part_from
from plait.ledger.events import Adapter, Base, RunStarted
from plait.ledger.ledger import read_lines
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import RunContext
from plait.settle import settle
from plait.simulation.execution import execute, prepare
from tests.killing import at_each_line, different_stories
from tests.plait.cli.conftest import write_jsonl

STARTED = RunStarted(
    seed=0, config={}, base=Base(name="tiny"), adapter=Adapter(trainable_parameters=9), full_model_bytes=36
)


class Channel:
    """One client more is back whenever somebody waits, and so many seconds later."""

    def __init__(self, *, open_ended=True, comes=True):
        self.open_ended = open_ended
        self.comes = comes
        self.here = 0
        self.waits = 0

    def nodes(self, at_least):
        return list(range(self.here))

    def wait(self, timeout_s):
        self.waits += 1
        self.here += self.comes


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]

    def monotonic():
        now[0] += 10.0
        return now[0]

    monkeypatch.setattr(time, "monotonic", monotonic)


def test_a_server_whose_rounds_are_done_waits_a_while_for_its_clients_to_learn_it_and_in_one_process_not_at_all(clock):
    back, gone, here = Channel(), Channel(comes=False), Channel(open_ended=False)
    for channel in (back, gone, here):
        _part_from(channel, 3)
    assert back.here == 3
    assert 0 < gone.waits < 10
    assert here.waits == 0


@pytest.mark.parametrize("dp", ["client", "record"])
def test_a_run_killed_between_its_first_event_and_its_promise_still_makes_it(dp, tmp_path):
    settled = settle(RunConfig(base="tiny", dp=dp, dp_epsilon=8.0))
    directory = RunDirectory.create(tmp_path / "run", config_toml="")
    opening = RunContext(directory=directory, settings=settled.plan.settings, size=10_000, base_parameters=10**6)
    promised = opened(settled.config, opening)
    assert len(promised) == 1
    assert opened(settled.config, replace(opening, events=(STARTED,))) == promised
    assert not opened(settled.config, replace(opening, events=(STARTED, *promised)))


def test_a_run_killed_at_any_line_of_its_opening_is_begun_or_goes_on_to_the_same_ledger(tmp_path):
    (tmp_path / "fleet.toml").write_text('[[device]]\nprofile = "phone"\n')
    settings = {
        "data": str(write_jsonl(tmp_path / "my.jsonl")), "base": "tiny", "clients": 2, "rounds": 1, "local-steps": 1,
        "batch-size": 1, "seq-len": 8, "rank": 1, "fleet": str(tmp_path / "fleet.toml"), "out": str(tmp_path / "run"),
    }  # fmt: skip
    run, data = prepare(config_from_table(settings, where="here"), quiet=True)
    out, left = tmp_path / "run", []

    def take(where):
        files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        if not left or files != left[-1][1]:
            left.append((where, files))

    def told():
        execute(run, data, quiet=True)
        return [
            {key: event[key] for key in event.keys() - {"run", "peak_rss_bytes"}}
            for event in read_lines(out / "ledger.jsonl")
        ]

    with at_each_line([federation.commit_opening, federation._begin_ledger], take):
        whole = told()
    assert len(left) > 5
    for where, files in left:
        shutil.rmtree(out)
        for path, content in files.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            (out / path).write_bytes(content)
        assert not different_stories(told(), whole), where
