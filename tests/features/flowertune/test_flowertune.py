"""What `plait flowertune` writes keeps a challenge's fixed parts, resolves, and is within the budget. Needs no hub."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.config import config_from_table
from plait.data import as_dataset
from plait.data.hub import hub_name
from plait.features.flowertune.entry import BUDGET_MB, CHALLENGES, write_entry
from plait.settings.toml import read_config_table
from plait.settle import settle

# flwrlabs/flower, commit fdef7afb, examples/flowertune-llm-*: data set, SuperNodes, fraction of them in a round.
FIXED = {
    "finance": ("flwrlabs/fingpt-sentiment-train", 50, 0.1),
    "medical": ("flwrlabs/medical-meadow-medical-flashcards", 20, 0.1),
    "code": ("flwrlabs/code-alpaca-20k", 10, 0.2),
    "general": ("flwrlabs/alpaca-gpt4", 20, 0.1),
}
# evaluation/README.md there.
MEANS = {"finance": 45.27, "medical": 32.82, "code": 27.36, "general": 12.82}


@pytest.mark.parametrize("name", CHALLENGES)
def test_the_settings_keep_what_is_fixed(name: str, tmp_path: Path) -> None:
    entry = write_entry(name, tmp_path / name)
    read = config_from_table(read_config_table(entry.directory / "run.toml"), where="run.toml")
    assert read == entry.settings
    data, supernodes, fraction = FIXED[name]
    assert (read.data, read.clients, read.partition) == (data, supernodes, "iid")
    assert read.clients_per_round == fraction * supernodes
    assert (read.rounds, read.method, read.base) == (200, "qlora", "mistralai/Mistral-7B-v0.3")
    assert hub_name(read.data)
    settle(read)
    page = (entry.directory / "README.md").read_text()
    assert f"evaluation/{CHALLENGES[name].folder}\n" in page
    assert f"num-supernodes = {supernodes}\n" in page
    assert ("--quantization=4" in page) == (name != "code")
    scores = CHALLENGES[name].scores.values()
    assert sum(scores) / len(scores) == pytest.approx(MEANS[name], abs=0.0051)
    assert f"{MEANS[name]:.2f}" in page


@pytest.mark.slow
def test_the_estimate_is_within_the_budget(tmp_path: Path, plait: Callable) -> None:
    entry = write_entry("finance", tmp_path / "entry", base="mistral-7b")
    ran = plait("estimate", "--config", entry.directory / "run.toml", "--no-evaluate", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    # Rank 32 on q_proj and v_proj of 32 blocks: 13.63M parameters, of the template's 40.7 GB.
    parameters = 32 * 32 * ((4096 + 4096) + (4096 + 1024))
    assert found["trainable_parameters"] == parameters
    # 1000 times a bit per parameter up, and a keyframe of 2.3 bits down: 1/35 of the budget.
    assert found["uplink_bytes"] == pytest.approx(1000 * parameters / 8, rel=0.01)
    assert (found["uplink_bytes"] + found["downlink_bytes"]) / 1024**2 < BUDGET_MB / 35


def test_medical_flashcards_are_questions_and_answers(tmp_path: Path) -> None:
    """Their instruction is the same in all; the template asks the input."""
    row = {"instruction": "Answer this question truthfully", "input": "What heals?", "output": "Time."}
    (tmp_path / "cards.json").write_text(json.dumps([row]))
    (record,) = as_dataset(tmp_path / "cards.json", columns=CHALLENGES["medical"].columns).records
    assert (record.prompt, record.completion) == ("What heals?", "Time.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("finances",), "challenge is 'finances', expected one of finance"), (("code", "."), "is a file or not empty")],
)
def test_what_cannot_be_written_is_one_line(arguments, message: str, plait: Callable) -> None:
    ran = plait("flowertune", *arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert message in ran.err
