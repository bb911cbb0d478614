import time
from dataclasses import replace

import pytest

from plait.composition import opened
from plait.config import RunConfig
from plait.federation import _part_from
from plait.ledger.events import Adapter, Base, RunStarted
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import Opening
from plait.settle import settle

STARTED = RunStarted(
    seed=0, config={}, base=Base(name="tiny"), adapter=Adapter(trainable_parameters=9), full_model_bytes=36
)

CLIENT = {"dp": "client", "dp_epsilon": 8.0}
RECORD = {"dp": "record", "dp_epsilon": 8.0}


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


def test_a_server_whose_rounds_are_done_waits_for_its_clients_so_that_they_hear_it(clock):
    channel = Channel()
    _part_from(channel, 3)
    assert channel.here == 3


def test_but_not_for_long_and_in_one_process_not_at_all(clock):
    gone = Channel(comes=False)
    _part_from(gone, 3)
    assert 0 < gone.waits < 10
    here = Channel(open_ended=False)
    _part_from(here, 3)
    assert here.waits == 0


@pytest.mark.parametrize("given", [CLIENT, RECORD, {}], ids=["client", "record", "fleet"])
def test_a_run_killed_between_its_first_event_and_its_promise_still_makes_it(given, tmp_path):
    (tmp_path / "fleet.toml").write_text('[[device]]\nprofile = "phone"\n')
    given = given or {"fleet": str(tmp_path / "fleet.toml")}
    settled = settle(RunConfig(base="tiny", **given))
    directory = RunDirectory.create(tmp_path / "run", config_toml="")
    opening = Opening(directory=directory, settings=settled.plan.settings, size=10_000, base_parameters=10**6)
    promised = opened(settled.config, opening)
    assert len(promised) == 1
    assert opened(settled.config, replace(opening, events=(STARTED,))) == promised
    assert not opened(settled.config, replace(opening, events=(STARTED, *promised)))
