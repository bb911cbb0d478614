from collections.abc import Sequence

import numpy as np
import pytest

from plait.api.serving import Serving
from plait.config import RunConfig
from plait.errors import ConfigError, RunInterrupted
from plait.ledger.events import RunStarted
from plait.ledger.ledger import read_events
from plait.rounds.channel import LocalChannel
from plait.rounds.run_directory import RunDirectory
from plait.wire.codec import DECODED
from server.app import run_described
from server.served_run import open_served_run


class Stopped(LocalChannel):
    """A channel on which a run is stopped before it hears of any client."""

    def nodes(self, at_least: int) -> Sequence[int]:
        raise RunInterrupted


def test_a_run_of_flowers_without_a_directory_is_refused_before_it_begins():
    with pytest.raises(ConfigError, match="run configuration has no out, expected a directory"):
        run_described(LocalChannel(lambda _: None, 0), {"rounds": 1}, None)


def test_a_run_on_a_superlink_records_what_its_nodes_may_share_and_only_flower_goes_on_with_it(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(RunInterrupted):
        run_described(Stopped(lambda _: None, 0), {"base": "tiny", "data": "", "out": str(out)}, "my.jsonl")
    began = read_events(out / "ledger.jsonl")[0]
    assert isinstance(began, RunStarted)
    assert (began.superlink_data, began.config["data"]) == ("my.jsonl", "")
    serving = Serving(listen="127.0.0.1:0", kit="", metrics="", grace_s=1.0, run_number=1)
    with pytest.raises(ConfigError, match="holds a run of Flower's SuperLink; `flwr run` continues it"):
        open_served_run(RunDirectory(out), RunConfig(data="", out=str(out)), serving, quiet=True)


def test_a_served_run_keeps_what_it_has_unpacked_to_its_end(tmp_path, monkeypatch):
    kept: list[object] = []

    def run_federation(*_: object, **__: object) -> None:
        DECODED.add(b"digest", np.ones(3, np.float32))
        kept.append(DECODED.find(b"digest"))

    monkeypatch.setattr("plait.federation.run_federation", run_federation)
    serving = Serving(listen="127.0.0.1:0", kit="", metrics="", grace_s=1.0, run_number=1)
    settings = RunConfig(base="tiny", data="", out=str(tmp_path / "run"))
    served = open_served_run(RunDirectory(tmp_path / "run"), settings, serving, quiet=True)
    served.rounds()
    assert kept[0] is not None
    assert DECODED.find(b"digest") is None
