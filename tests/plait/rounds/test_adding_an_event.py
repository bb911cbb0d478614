"""CONTRIBUTING.md shows how an event is added as a diff; here it is applied to a copy of the tree's files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = ("plait/rounds/events.py", "tests/plait/rounds/test_events.py")


@pytest.mark.slow
def test_the_diff_that_adds_an_event_applies_and_its_tests_pass(tmp_path) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    (diff,) = re.findall(r"## Adding a ledger event\n.*?```diff\n(.*?)```", page, re.DOTALL)
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)

    # The changed events take the place of those of the tree.
    program = f"""
import sys, importlib.util, pytest
import plait.rounds
spec = importlib.util.spec_from_file_location("plait.rounds.events", {str(tmp_path / FILES[0])!r})
sys.modules["plait.rounds.events"] = plait.rounds.events = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
saved = module.CheckpointSaved(round=3, size_bytes=9)
assert module.parse_event({{"event": saved.event, **saved.fields()}}) == saved
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--import-mode=importlib", {str(tmp_path / FILES[1])!r}]))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
