"""SECURITY.md's table: every defence names what tests it, and that is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
ROWS = set(re.findall(r'^    "([a-z_]+)": "', (TESTS / "scoreboard" / "run.py").read_text(), flags=re.MULTILINE))
_PAGE = (ROOT / "SECURITY.md").read_text()
THREATS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in _PAGE.partition("| Threat | Defence | Tested by |")[2].partition("\n\n")[0].splitlines()[2:]
]


@pytest.fixture(scope="module")
def functions():
    """The names of all test functions."""
    texts = (path.read_text() for path in TESTS.rglob("test_*.py"))
    return {name for text in texts for name in re.findall(r"^ *def (test_\w+)\(", text, flags=re.MULTILINE)}


def test_there_is_a_table():
    assert len(THREATS) > 30


@pytest.mark.parametrize(("threat", "defence", "tested"), THREATS, ids=[threat for threat, *_ in THREATS])
def test_what_is_said_to_test_a_defence_is_there(threat, defence, tested, functions):
    del threat, defence
    rows = re.match(r"rows? ([a-z_]+(?:, [a-z_]+)*)", tested)
    named = re.findall(r"`([^`]+)`", tested)
    assert rows or named
    assert set(rows[1].split(", ") if rows else ()) <= ROWS
    for name in named:
        if name.startswith("tests/"):
            assert (ROOT / name).is_file(), name
        else:
            assert name in functions
