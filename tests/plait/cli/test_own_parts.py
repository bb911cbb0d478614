"""A run with a user's own part, from the command line: its source in the ledger, resume and verify."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from plait import plugins
from plait.ledger.events import RunStarted
from plait.ledger.ledger import read_events
from tests.commands import resuming, run_command

RULE = """
import os
from pathlib import Path

import numpy as np


def middle(updates, ctx, *, trim: int = 0):
    if ctx.round == 2 and Path("stop").exists():
        os.kill(os.getpid(), 9)
    return np.median(updates.deltas, axis=0)
"""


@pytest.fixture
def home(jsonl: Path, monkeypatch: pytest.MonkeyPatch, nothing_named: None) -> Path:
    """The user's working directory, with data and a rule; this process has admitted and imported nothing yet."""
    folder = jsonl.parent
    (folder / "rules_of_ada.py").write_text(RULE)
    monkeypatch.chdir(folder)
    return folder


def arguments(small: tuple[str, ...], out: str, *more: str) -> tuple[str, ...]:
    data = ("--data", "my.jsonl", "--partition", "natural:author", "--clients", "3", "--dtype", "float32")
    return ("simulate", *data, *small, "--rule", "rules_of_ada:middle:trim=1", "--out", out, "--json", *more)


def adapter_of(run: Path) -> str:
    return next(event.adapter for event in read_events(run / "ledger.jsonl") if event.event == "run_finished")


@pytest.mark.slow
def test_resume_and_verify_refuse_another_source_of_a_rule(plait, home, small):
    assert plait(*arguments(small, "whole", "--keep-updates")).code == 0
    (home / "stop").touch()
    killed = run_command(*arguments(small, "killed", "--keep-updates"), cwd=home)
    assert killed.returncode == -9
    (home / "stop").unlink()
    (started,) = (event for event in read_events(home / "killed" / "ledger.jsonl") if isinstance(event, RunStarted))
    (recorded,) = started.plugins
    assert (recorded.kind, recorded.name) == ("rule", "rules_of_ada:middle")
    assert recorded.sha256 == hashlib.sha256(RULE.encode()).hexdigest()

    (home / "rules_of_ada.py").write_text(RULE + "# another\n")
    for command in (resuming(Path("killed")), ("verify", "killed"), ("verify", "whole")):
        ran = plait(*command)
        assert ran.code == 2
        assert ran.err.splitlines()[-1].startswith("error: source of rule 'rules_of_ada:middle' is ")

    (home / "rules_of_ada.py").write_text(RULE)
    assert plait(*resuming(Path("killed")), "--json").code == 0
    assert adapter_of(home / "killed") == adapter_of(home / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "named"), [("verify", ()), ("audit", ("--allow", "data=my.jsonl"))])
def test_no_rule_is_imported_that_the_operator_does_not_name(plait, home, small, monkeypatch, verb, named):
    assert plait(*arguments(small, "run", "--keep-updates")).code == 0
    monkeypatch.setattr(plugins, "ADMITTED", set())
    monkeypatch.setattr(plugins, "_found", {})
    sys.modules.pop("rules_of_ada")
    refused = plait(verb, "run", "--json")
    assert refused.code == 2
    allow = (*named, "--allow", "rule=rules_of_ada:middle:trim=1")
    assert refused.err.rstrip().endswith(f"if you trust it, add {' '.join(allow)}")
    assert "rules_of_ada" not in sys.modules

    checked = plait(verb, "run", *allow, "--json")
    assert checked.code == 0, checked.err
    told = json.loads(checked.out)
    if verb == "audit":
        assert told["members"]
    else:
        assert told["replayed"] == 2
        (how,) = told["plugins"].values()
        assert how.endswith("as when the run began")


@pytest.mark.slow
def test_a_run_without_kept_updates_is_verified_where_the_rule_is_not(plait, home, small, monkeypatch):
    assert plait(*arguments(small, "run")).code == 0
    sys.modules.pop("rules_of_ada")
    (home / "rules_of_ada.py").unlink()
    checked = plait("verify", "run")
    assert checked.code == 0, checked.err
    assert "rule rules_of_ada:middle: not here, so its source is not checked" in checked.out
