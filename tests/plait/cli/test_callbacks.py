"""Callbacks that the settings name: in a file of settings, on the command line, and when a run goes on."""

import shlex
from pathlib import Path

import pytest

from plait.ledger.ledger import read_events
from tests.commands import resuming
from tests.plait.cli.conftest import by_author

WEIGHTS = "adapter/adapter_model.safetensors"

_MINE = """
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from pydantic import Field
import plait

def note(event, *, file: str = "heard.txt"):
    with open(file, "a") as out:
        out.write(event.event + "\\n")

@dataclass
class Once:
    at: Annotated[int, Field(description="round")] = 1

    def __call__(self, event):
        if event.event == "round_finished" and event.round == self.at:
            return plait.Stop.PAUSE

def breaks(event):
    if event.event == "round_finished":
        raise KeyError("broken")
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_named: None) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "callbacks_of_eve.py").write_text(_MINE)
    return tmp_path


@pytest.mark.slow
def test_a_run_that_a_named_callback_pauses_goes_on_to_the_same_bits(plait, original, home, small):
    (home / "run.toml").write_text(
        '[[callbacks]]\nname = "callbacks_of_eve:note"\nfile = "told.txt"\n'
        '[[callbacks]]\nname = "callbacks_of_eve:Once"\nat = 1\n'
    )
    paused = plait(*by_author(original / "my.jsonl", "run", small, "--config", "run.toml"))
    assert paused.code == 130
    said = paused.err.splitlines()[-1]
    assert "callback callbacks_of_eve:Once asked to pause" in said
    assert said.endswith(f"continue with: {shlex.join(['plait', *resuming(Path('run'))])}")
    first = [event.event for event in read_events(home / "run/ledger.jsonl")]
    assert (home / "told.txt").read_text().split() == first
    assert plait(*resuming(Path("run"))).code == 0
    assert (home / "run" / WEIGHTS).read_bytes() == (original / "run" / WEIGHTS).read_bytes()
    # What was recorded is told again, then what follows.
    events = [event.event for event in read_events(home / "run/ledger.jsonl")]
    assert (home / "told.txt").read_text().split() == [*first, *events]
    verified = plait("verify", "run").out
    assert verified.count("as when the run began") == 2
    (home / "callbacks_of_eve.py").write_text(_MINE + "\n")
    assert "callbacks_of_eve" in plait("verify", "run").err


@pytest.mark.slow
def test_a_callback_that_fails_or_cannot_be_stops_a_run_with_one_line(plait, original, home, small, monkeypatch):
    settings = ("simulate", "--data", original / "my.jsonl", "--clients", 3, *small)
    failed = plait(
        *settings, "--out", "other", "--callbacks", "callbacks_of_eve:note,callbacks_of_eve:breaks", "--json"
    )
    assert failed.code == 2
    (line,) = failed.err.splitlines()
    assert line.startswith("error: callback 'callbacks_of_eve:breaks' failed: KeyError: 'broken'")
    assert "callbacks_of_eve.py, line 22" in line
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for name, why in (
        ("callbacks_of_eve:Onze", "did you mean 'Once'"),
        ("callbacks_of_eve:Once:when=2", "the option 'when'"),
        ("callbacks_of_eve:Path", "is a PosixPath, expected a function of one event"),
        ("nothing", "callback is 'nothing', expected one of mlflow"),
        ("tensorbord", "did you mean 'tensorboard'"),
        ("wandb:project=a", "wandb has no options"),
        ("trackio", "the package is not installed; pip install trackio"),
    ):
        refused = plait(*settings, "--out", "third", "--callbacks", name)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert why in refused.err
    assert not (home / "third").exists()
