from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from plait.config import config_from_table
from plait.errors import ConfigError, Interrupted
from plait.features.studies.sweeping import Sweep, sweep
from plait.rounds.events import Evaluated, RoundFinished
from plait.rounds.ledger import read_events
from plait.rounds.stop import StopRequest
from plait.simulation.execution import execute, prepare
from plait.simulation.loaded import Loaded
from tests.commands import Command, run_command
from tests.plait.cli.conftest import write_jsonl


@pytest.fixture
def common(tmp_path: Path) -> dict[str, object]:
    """Settings of runs that take a second each."""
    return {
        "data": str(write_jsonl(tmp_path / "my.jsonl")), "partition": "natural:author", "clients": 3, "base": "tiny",
        "rounds": 2, "local-steps": 1, "batch-size": 2, "seq-len": 32, "rank": 2, "dtype": "float32",
    }  # fmt: skip


def content(run: Path) -> tuple[bytes, list[tuple[str, float]]]:
    """The published adapter and every loss and adapter on the way to it."""
    events = read_events(run / "ledger.jsonl")
    losses = [(event.adapter, event.loss) for event in events if isinstance(event, Evaluated)]
    return (run / "adapter" / "adapter_model.safetensors").read_bytes(), losses


def runs_of(done: Sweep) -> dict[str, Path]:
    return {cell.name: done.path / "cells" / cell.name for cell in done.grid.cells}


@pytest.mark.slow
def test_every_run_is_bit_for_bit_that_of_simulate(common, tmp_path: Path) -> None:
    """Whatever ran before it: a moved base, another partition, number of threads, rank, method or seed."""
    kinds = {
        "moves": {"rule": "fedex", "partition": "iid"},
        "thread": {"threads": 1, "rank": 4},
        "fixed": {"method": "lora_xs", "wire": "2"},
        "later": {"seed": 1, "method": "lora_xs"},
        "plain": {},
    }
    done = sweep({**common, "grid": {"kind": kinds}}, out=tmp_path / "sweep")
    assert not done.failed
    for cell in done.grid.cells[2:]:
        alone = tmp_path / "alone" / cell.name
        # What `plait simulate` does before it writes its report.
        execute(*prepare(config_from_table({**cell.settings, "out": str(alone)}), quiet=True), quiet=True)
        assert content(done.path / "cells" / cell.name) == content(alone), cell.name


@pytest.mark.slow
def test_data_and_base_are_loaded_once(common, tmp_path: Path, monkeypatch) -> None:
    from plait.simulation import loaded
    from plait.training import resident

    counts = {"data": 0, "tokens": 0, "base": 0}

    def counted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            counts[name] += 1
            return real(*arguments, **named)

        return call

    monkeypatch.setattr(loaded, "as_dataset", counted("data", loaded.as_dataset))
    monkeypatch.setattr(loaded, "tokenise", counted("tokens", loaded.tokenise))
    monkeypatch.setattr(resident.ResidentBase, "_load", counted("base", resident.ResidentBase._load))
    sweep({**common, "seeds": [0, 1], "grid": {"rule": ["fedavg", "ffa"]}}, out=tmp_path / "sweep")
    assert counts == {"data": 1, "tokens": 3, "base": 1}


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on(common, tmp_path: Path) -> None:
    """One setting that no run can have, one that this base cannot carry, one of the user's own code."""
    (tmp_path / "my_own.py").write_text("def build(*arguments):\n    raise RuntimeError('no\\nluck')\n")
    kinds = {
        "impossible": {"clients-per-round": 99},
        "unfit": {"target-modules": "nothing_here"},
        "own": {"trainer": "my_own:build"},
        "good": {},
    }
    sys.path.insert(0, str(tmp_path))
    try:
        done = sweep({**common, "grid": {"kind": kinds}}, out=tmp_path / "sweep")
    finally:
        sys.path.remove(str(tmp_path))
    failed = {name.removeprefix("kind-").removesuffix("_seed-0"): error for name, error in done.failed.items()}
    assert set(failed) == {"impossible", "unfit", "own"}
    assert "clients-per-round is 99" in failed["impossible"]
    assert "nothing_here" in failed["unfit"]
    assert "my_own.py, line 2" in failed["own"]
    assert not any("\n" in error for error in failed.values())
    assert done.frame.set_index("kind").status.to_dict() == {**dict.fromkeys(failed, "failed"), "good": "finished"}
    assert [group.label for group in done.comparison.groups] == ["kind good"]


def test_a_grid_of_which_no_run_can_be_is_refused_before_anything(common, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="clients-per-round is 99"):
        sweep({**common, "clients-per-round": 99, "grid": {"rank": [2, 4]}}, out=tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


@pytest.mark.slow
def test_a_finished_sweep_is_read_and_more_values_and_seeds_are_added(common, tmp_path: Path) -> None:
    grid = {**common, "grid": {"rule": ["fedavg"]}}
    first = sweep(grid, out=tmp_path / "sweep")
    before = {run: (run / "ledger.jsonl").read_bytes() for run in runs_of(first).values()}
    more = sweep({**common, "seeds": [0, 1], "grid": {"rule": ["fedavg", "ffa"]}}, out=tmp_path / "sweep")
    assert {run: (run / "ledger.jsonl").read_bytes() for run in before} == before
    assert more.frame.status.tolist() == ["finished"] * 4
    groups = more.comparison.summary.set_index("group")
    assert groups.seeds.to_dict() == {"rule fedavg": 2, "rule ffa": 2}
    found = more.frame.groupby("rule").loss.mean()
    assert groups.loss.to_dict() == {f"rule {rule}": pytest.approx(loss) for rule, loss in found.items()}


@pytest.mark.slow
def test_results_are_a_frame_csv_and_json_and_a_second_sweep_or_other_settings_are_refused(
    common, tmp_path: Path
) -> None:
    grid = {**common, "grid": {"rank": [2]}}

    def again(_cell, _state, found: Sweep) -> None:
        with pytest.raises(ConfigError, match="in use by another sweep"):
            sweep(grid, out=found.path)

    done = sweep(grid, out=tmp_path / "sweep", on_run=again)
    row = done.frame.iloc[0]
    summary = json.loads((tmp_path / "sweep/cells/rank-2_seed-0/summary.json").read_text())
    assert row.loss == summary["final_held_out_loss"]
    assert row.bytes == summary["uplink_bytes"] + summary["downlink_bytes"]
    (line,) = (tmp_path / "sweep/results.jsonl").read_text().splitlines()
    (cells,) = csv.DictReader((tmp_path / "sweep/results.csv").read_text().splitlines())
    assert json.loads(line)["loss"] == float(cells["loss"]) == row.loss
    assert (cells["rank"], cells["status"]) == ("2", "finished")
    with pytest.raises(ConfigError, match="holds a run with rounds 2, not 3; give another --out"):
        sweep({**grid, "rounds": 3}, out=tmp_path / "sweep")


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_goes_on_later_to_the_same_bits(common, tmp_path: Path) -> None:
    grid = {**common, "seeds": [0, 1], "grid": {"wire": ["fp32"]}}
    stop = StopRequest()

    def ask(_cell, _state, _sweep) -> None:
        stop.asked = True

    with pytest.raises(Interrupted):
        sweep(grid, out=tmp_path / "stopped", stop=stop, on_run=ask)
    states = [json.loads(line)["status"] for line in (tmp_path / "stopped/results.jsonl").read_text().splitlines()]
    assert states == ["finished", "waiting"]
    whole, stopped = sweep(grid, out=tmp_path / "whole"), sweep(grid, out=tmp_path / "stopped")
    assert [*map(content, runs_of(whole).values())] == [*map(content, runs_of(stopped).values())]


def test_the_number_of_threads_of_one_run_is_not_that_of_the_next() -> None:
    from plait.training.device import use_threads

    default = use_threads(0)
    try:
        assert use_threads(default + 1) == default + 1
        assert use_threads(0) == torch.get_num_threads() == default
    finally:
        torch.set_num_threads(default)


@pytest.mark.slow
def test_tokens_are_those_of_the_records_the_base_and_the_length(common) -> None:
    loaded = Loaded()
    found = []
    for seq_len in (32, 16, 32):
        run, data = prepare(config_from_table({**common, "seq-len": seq_len}), quiet=True, loaded=loaded)
        base = loaded.base(run)
        share = data.partition.shares[0]
        examples = loaded.tokens(
            share.records, kind=data.dataset.kind, task=run.settled.task, labels=(), tokenizer=base.tokenizer,
            seq_len=seq_len,
        )  # fmt: skip
        found.append(examples)
    assert found[0] is found[2]
    assert [len(examples[0].tokens) for examples in found] == [32, 16, 32]
    assert np.array_equal(found[0][0].tokens[:16], found[1][0].tokens)


def _command(grid: Path, out: Path, *more: object) -> tuple[object, ...]:
    return ("sweep", grid, "--out", out, "--json", *more)


def _write(path: Path, common: dict[str, object], **lists: object) -> Path:
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**common, **lists}.items()]
    path.write_text("\n".join([*lines, "[grid]", 'wire = ["1", "fp32"]', ""]))
    return path


def _wait_for(condition: Callable[[], bool], process: Command) -> None:
    while not condition():
        assert process.poll() is None, "the sweep has ended before it could be killed"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_that_is_killed_in_the_middle_of_a_run_goes_on_to_the_same_bits(
    common, tmp_path: Path, jobs: int
) -> None:
    grid = _write(tmp_path / "grid.toml", {**common, "rounds": 4, "threads": 1}, seeds=[0])
    whole = sweep(grid, out=tmp_path / "whole")
    killed = tmp_path / "killed"
    second = killed / "cells" / "wire-fp32_seed-0" / "ledger.jsonl"

    def in_second_run() -> bool:
        return second.exists() and any(isinstance(event, RoundFinished) for event in read_events(second))

    process = Command(*_command(grid, killed, "--jobs", jobs), stdout=subprocess.DEVNULL)
    _wait_for(in_second_run, process)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    workers = [Path("/proc", number) for number in found.stdout.split()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished_before = [json.loads(line)["status"] for line in (killed / "results.jsonl").read_text().splitlines()]
    assert finished_before.count("finished") < 2
    # Workers end with the process that started them, and give up their ledgers.
    deadline = time.monotonic() + 60
    while any(worker.exists() for worker in workers):
        assert time.monotonic() < deadline, workers
        time.sleep(0.1)
    done = run_command(*_command(grid, killed, "--jobs", jobs))
    assert done.returncode == 0, done.stderr
    assert [row["status"] for row in json.loads(done.stdout)["runs"]] == ["finished"] * 2
    for name, run in runs_of(whole).items():
        assert content(run) == content(killed / "cells" / name), name


_KILLS_THE_FIRST = """
import os, signal
from contextlib import suppress

def kill(event):
    if event.event == "round_finished" and event.round == 2:
        with suppress(FileExistsError):
            open("killed", "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_fails_its_run_and_the_next_start_finishes_it(
    common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "kills_the_first.py").write_text(_KILLS_THE_FIRST)
    grid = {
        **common, "rounds": 3, "threads": 1, "callbacks": "kills_the_first:kill", "grid": {"wire": ["1", "fp32", "2"]}
    }  # fmt: skip
    first = sweep(grid, out=tmp_path / "sweep", jobs=2)
    assert len(first.failed) == 1
    assert "was ended by signal 9" in next(iter(first.failed.values()))
    assert first.frame.status.tolist().count("finished") == 2
    again = sweep(grid, out=tmp_path / "sweep")
    assert not again.failed
    shutil.rmtree(tmp_path / "sweep")
    whole = sweep(grid, out=tmp_path / "sweep")
    assert whole.frame.loss.tolist() == again.frame.loss.tolist()
