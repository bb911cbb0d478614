from __future__ import annotations

import json
from pathlib import Path

import pytest

from plait.config import config_from_table
from plait.ledger.ledger import read_lines
from plait.rounds.run_directory import RunDirectory
from plait.simulation.execution import add_references, execute, prepare
from plait.simulation.simulation import Simulation


@pytest.mark.slow
def test_a_baseline_from_an_adapter_is_compared_with_what_the_run_began_with(tmp_path: Path) -> None:
    texts = [
        "\n".join(f"{word} {number} of book {book}" for number in range(10))
        for word in ("line", "page")
        for book in range(80)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text, "who": text[:4]}) + "\n" for text in texts))
    common = {
        "data": str(data), "partition": "natural:who", "clients": 2, "base": "tiny", "rounds": 1, "local_steps": 6,
        "seq_len": 32, "learning_rate": 0.005, "dtype": "float32", "device": "cpu", "threads": 1, "wire": "fp32",
    }  # fmt: skip
    for name, more in {"first": {}, "then": {"init_adapter": str(tmp_path / "first")}}.items():
        run, data = prepare(config_from_table({**common, **more, "out": str(tmp_path / name)}), quiet=True)
        execute(run, data, quiet=True)
    directory = RunDirectory(tmp_path / "then")
    run, data = prepare(run.config.model_copy(update={"reference": "central"}), quiet=True)
    add_references(directory, run, Simulation(run, data.partition.shares), progress=lambda _: None)

    events = list(read_lines(directory.ledger))
    base = next(event for event in events if event["event"] == "evaluated" and event["round"] == 0)
    reference = next(event for event in events if event["event"] == "reference")
    assert reference["change"] == pytest.approx(reference["held_out_loss"] - base["loss"])
    assert reference["change_margin"] > 0
    # What the adapter was taught is not forgotten.
    unadapted = next(event for event in read_lines(RunDirectory(tmp_path / "first").ledger) if "by_client" in event)
    assert base["loss"] < unadapted["loss"] - 0.01
