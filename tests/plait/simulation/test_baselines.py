import json

import pytest

from plait.config import config_from_table
from plait.ledger.ledger import read_lines
from plait.rounds.run_directory import RunDirectory
from plait.simulation.baselines import add_references
from plait.simulation.execution import execute, prepare
from plait.simulation.simulation import Simulation


@pytest.mark.slow
def test_baselines_take_the_run_s_steps_and_are_compared_with_what_it_began_with(tmp_path):
    texts = [
        "\n".join(f"{word} {number} of book {book}" for number in range(10))
        for word in ("line", "page")
        for book in range(80)
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text, "who": text[:4]}) + "\n" for text in texts))
    common = {
        "data": str(data), "partition": "natural:who", "clients": 2, "base": "tiny", "rounds": 1, "local_steps": 6,
        "seq_len": 32, "learning_rate": 0.005, "dtype": "float32", "device": "cpu", "threads": 1, "bits": "fp32",
    }  # fmt: skip
    for name, more in {"first": {}, "then": {"init_adapter": str(tmp_path / "first")}}.items():
        run, data = prepare(config_from_table({**common, **more, "out": str(tmp_path / name)}), quiet=True)
        execute(run, data, quiet=True)
    directory = RunDirectory(tmp_path / "then")
    run, data = prepare(run.config.model_copy(update={"reference": "central,local"}), quiet=True)
    add_references(directory, run, Simulation(run, data.partition.shares), progress=lambda _: None)

    events = list(read_lines(directory.ledger))
    base = next(event for event in events if event["event"] == "evaluated" and event["round"] == 0)
    central, local = (event for event in events if event["event"] == "reference")
    for reference, batch in ((central, 8), (local, 4)):
        assert (reference["steps"], reference["batch_size"]) == (6, batch)
        assert reference["change"] == pytest.approx(reference["held_out_loss"] - base["loss"])
        assert reference["change"] < 0 < reference["change_margin"]
    assert central["everywhere"] == pytest.approx(central["held_out_loss"])
    # What a client learned alone is worth less to the other one.
    assert local["held_out_loss"] < local["everywhere"]
    # What the adapter was taught is not forgotten.
    unadapted = next(event for event in read_lines(RunDirectory(tmp_path / "first").ledger) if "by_client" in event)
    assert base["loss"] < unadapted["loss"] - 0.01
