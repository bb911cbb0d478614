"""Two runs, the second one from the first one's adapter on other data: what it forgot of the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def write(path: Path, text: str) -> Path:
    lines = [{"text": text.format(number) * 3, "author": author} for number in range(20) for author in ("ada", "bob")]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_a_later_adapter_s_loss_on_an_earlier_run_s_held_out_data(plait, small, tmp_path: Path) -> None:
    options = (*small, "--partition", "natural:author", "--clients", 2, "--max-held-out-sequences", 4)
    code = write(tmp_path / "code.jsonl", "def add_{0}(left, right):\n    return left + right\n")
    prose = write(tmp_path / "prose.jsonl", "The quick brown fox number {0} jumps over the lazy dog.\n")
    first, second = tmp_path / "first", tmp_path / "second"
    assert plait("simulate", "--data", code, *options, "--out", first, "--json").code == 0
    more = ("--init-adapter", first, "--learning-rate", "0.02", "--out", second)
    assert plait("simulate", "--data", prose, *options, *more, "--json").code == 0

    ran = plait("eval", "--adapter", second, "--on", first, "--on", second, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    earlier, itself = found[str(first)], found[str(second)]
    summary = json.loads((first / "summary.json").read_text())
    assert earlier["base_loss"] == pytest.approx(summary["base_held_out_loss"], abs=2e-3)
    assert earlier["own_loss"] == pytest.approx(summary["final_held_out_loss"], abs=2e-3)
    assert earlier["forgetting"] == pytest.approx(earlier["loss"] - earlier["own_loss"])
    low, high = earlier["forgetting_interval"]
    assert low < earlier["forgetting"] < high
    assert earlier["forgetting_by_client"].keys() == {"ada", "bob"}
    assert earlier["forgetting"] != 0
    # Of what it learned last it has forgotten nothing.
    assert itself["forgetting"] == 0
    shown = plait("eval", "--adapter", second, "--on", first)
    assert "forgotten" in shown.out

    # Other data than the run's are no data of the run.
    write(tmp_path / "code.jsonl", "def subtract_{0}(left, right):\n    return left - right\n")
    refused = plait("eval", "--adapter", second, "--on", first, "--json")
    assert refused.code == 2
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "bbc", "--on", "x"), "plait eval --on has no option --data"),
        (("--on", "x", "--split", "test"), "plait eval --on has no option --split"),
        (("--on", "x"), "cannot read 'nothing/adapter_config.json'"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message: str, plait) -> None:
    ran = plait("eval", "--adapter", "nothing", *options)
    assert ran.code in (2, 3)
    assert message in " ".join(ran.err.split())
