"""`plait check-plugin`, from the command line."""

import json

import pytest

PARTS = """
import numpy as np


def good(updates, ctx, *, groups: int = 2):
    return updates.deltas.mean(axis=0)


def bad(updates, ctx):
    return updates.weights @ updates.deltas


def halves(dataset, clients, seed):
    return [range(k, len(dataset.records), clients) for k in range(clients)]
"""


@pytest.fixture
def home(tmp_path, monkeypatch, nothing_named):
    (tmp_path / "parts_of_eve.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_check_is_a_line_and_a_broken_claim_ends_with_1(plait, home):
    good = plait("check-plugin", "parts_of_eve:good:groups=3")
    assert (good.code, good.err) == (0, "")
    assert all(line[:6].strip() in ("ok", "-") for line in good.out.splitlines())

    bad = plait("check-plugin", "parts_of_eve:bad")
    assert bad.code == 1
    (line,) = (line for line in bad.out.splitlines() if line.startswith("BROKEN"))
    assert "only the ratio of the weights matters" in line
    assert bad.err == "error: rule 'parts_of_eve:bad' breaks 1 of 14 claims\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("parts_of_eve:godd",), "did you mean 'good'?"),
        (("nowhere",), "installed as nothing"),
        (("parts_of_eve:good", "--kind", "rulle"), "expected one of rule, server optimizer"),
        (("parts_of_eve:good:grops=3",), "did you mean 'groups'?"),
    ],
)
def test_what_is_not_there_is_one_line(plait, home, arguments, said):
    ran = plait("check-plugin", *arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert said in ran.err


OTHERS = """
import itertools
import plait

_calls = itertools.count()


def numbers(*, most: int = 9):
    return [{"text": f"number {number}"} for number in range(most)]


def drawn():
    return [{"text": f"number {next(_calls)}"}]


def hears(event):
    return None


class Talks:
    def __call__(self, event):
        return event.event
"""


@pytest.mark.parametrize(
    ("arguments", "kind", "broken"),
    [
        (("numbers:most=3", "--kind", "dataset"), "dataset", ""),
        (("drawn", "--kind", "dataset"), "dataset", "gives the same records again"),
        (("hears",), "callback", ""),
        (("Talks",), "callback", "answers the events of a run with plait.Stop or None"),
    ],
)
def test_data_and_callbacks_are_checked_too(plait, home, arguments, kind, broken):
    (home / "others_of_eve.py").write_text(OTHERS)
    ran = plait("check-plugin", f"others_of_eve:{arguments[0]}", *arguments[1:], "--json")
    told = json.loads(ran.out)
    assert told["kind"] == kind
    fails = [check["claim"] for check in told["checks"] if not check["holds"]]
    assert (ran.code, fails[:1]) == ((1, [broken]) if broken else (0, []))
