import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import plait
from plait.cli.main import main
from plait.errors import ConfigError, DataError
from plait.ledger.events import (
    ClientsDescribed,
    EndedEarly,
    Evaluated,
    Interrupted,
    RoundFinished,
    RunFinished,
    RunStarted,
    UpdateReceived,
)
from plait.ledger.ledger import read_events
from plait.training.examples import Example
from plait.training.learner import Learner
from tests.commands import Command

WEIGHTS = "adapter/adapter_model.safetensors"


def weights(run: Path) -> bytes:
    return (run / WEIGHTS).read_bytes()


@pytest.mark.slow
def test_the_function_and_the_command_give_the_same_adapter_bit_for_bit(finished, jsonl, tmp_path, monkeypatch):
    words = (
        "simulate", "--partition", "natural:author", "--clients", "3", "--base", "tiny", "--rounds", "2",
        "--local-steps", "2", "--batch-size", "2", "--seq-len", "32", "--rank", "2", "--learning-rate", "0.01",
        "--dtype", "float32", "--json",
    )  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["plait", *words, "--data", str(jsonl), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert weights(tmp_path / "run") == weights(finished)
    assert (finished / "report.html").exists()


@pytest.mark.slow
def test_off_the_main_thread_it_gives_the_same_bits_leaves_signals_alone_and_callbacks_hear_the_events_of_the_ledger(
    finished, records, small, tmp_path
):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    found: list[plait.Result] = []
    heard: list[plait.Event] = []

    def work() -> None:
        how = {"partition": "natural:author", "out": tmp_path / "run", "callbacks": [heard.append], **small}
        found.append(plait.simulate(records, **how))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (run,) = found
    assert weights(run.path) == weights(finished)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert tuple(heard) == run.events
    assert isinstance(heard[0], RunStarted)
    assert isinstance(heard[-1], RunFinished)


@pytest.mark.slow
def test_a_callback_ends_the_run_whole(records, small, tmp_path):
    def once(event: plait.Event) -> plait.Stop | None:
        return plait.Stop.END if isinstance(event, RoundFinished) else None

    settings = {**small, "rounds": 5, "eval_every": 5}
    run = plait.simulate(records, partition="natural:author", out=tmp_path / "run", callbacks=[once], **settings)
    assert run.finished
    (ended,) = [event for event in run.events if isinstance(event, EndedEarly)]
    assert (ended.round, ended.reason) == (1, "callback once asked for it")
    # What it ends with has been evaluated, though no evaluation was due.
    evaluated = [event for event in run.events if isinstance(event, Evaluated)]
    finish = run.events[-1]
    assert [event.round for event in evaluated] == [0, 1]
    assert isinstance(finish, RunFinished)
    assert (finish.rounds, finish.adapter) == (1, evaluated[-1].adapter)
    assert (run.path / "report.html").exists()


@pytest.mark.slow
def test_a_paused_run_goes_on_to_the_same_bits_and_its_callbacks_hear_everything_again(
    finished, records, small, tmp_path
):
    def pause(event: plait.Event) -> plait.Stop | None:
        return plait.Stop.PAUSE if isinstance(event, RoundFinished) and event.round == 1 else None

    run = plait.simulate(records, partition="natural:author", out=tmp_path / "run", callbacks=[pause], **small)
    assert not run.finished
    with pytest.raises(ConfigError, match="pass it again"):
        plait.resume(run, quiet=True)
    heard: list[plait.Event] = []
    again = plait.resume(run, data=records, callbacks=[pause, heard.append], quiet=True)
    assert again.finished
    assert tuple(heard) == again.events
    assert weights(run.path) == weights(finished)


@pytest.mark.slow
def test_a_run_whose_callback_raises_stops_with_that_error_and_goes_on(finished, records, small, tmp_path):
    def careless(event: plait.Event) -> None:
        if isinstance(event, RoundFinished):
            raise KeyError("no such metric")

    out = tmp_path / "run"
    with pytest.raises(KeyError, match="no such metric") as raised:
        plait.simulate(records, partition="natural:author", out=out, callbacks=[careless], **small)
    assert [entry.name for entry in raised.traceback][-1] == "careless"
    assert raised.value.__notes__ == [f"continue with plait.resume({str(out)!r})"]
    assert sum(isinstance(event, RoundFinished) for event in read_events(out / "ledger.jsonl")) == 1
    plait.resume(out, data=records, quiet=True)
    assert weights(out) == weights(finished)


@pytest.mark.slow
def test_early_stopping_ends_a_run_after_as_many_evaluations_without_a_lower_loss(records, small, tmp_path):
    settings = {**small, "rounds": 9, "learning_rate": 0.0001, "server_optimizer": "sgd:lr=1e-9"}
    stopping = plait.EarlyStopping(patience=2)
    run = plait.simulate(records, partition="iid", out=tmp_path / "run", callbacks=[stopping], **settings)
    losses = [event.loss for event in run.events if isinstance(event, Evaluated)]
    assert losses.index(min(losses)) == len(losses) - 3
    assert run.finished
    assert run.summary["rounds"] == len(losses) - 1 < 9
    with pytest.raises(ConfigError, match="is finished"):
        plait.resume(run)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"base": "tny"}, "did you mean 'tiny'"),
        ({"roundz": 3}, "did you mean 'rounds'"),
        ({"base": 3}, "base is a int, expected a name, a directory or a model"),
        ({"base": "tiny", "tokenizer": 3}, "tokenizer is given, expected none"),
        ({"callbacks": [3]}, "a callback is 3, expected a function"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(records, tmp_path, given, message):
    with pytest.raises(ConfigError, match=message) as refused:
        plait.simulate(records, **{"base": "tiny", "out": tmp_path / "run", "quiet": True, **given})  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


CHILD = """
import json, sys
import plait
records = json.loads(open(sys.argv[1]).read())
plait.simulate(records, partition="natural:author", out=sys.argv[2], base="tiny", clients=3, rounds=2, local_steps=2,
               batch_size=2, seq_len=32, rank=2, learning_rate=1e-2, dtype="float32", quiet=True)
"""


@pytest.mark.promise
@pytest.mark.slow
@pytest.mark.parametrize(("number", "updates"), [(signal.SIGINT, 1), (signal.SIGKILL, 4)])
def test_a_program_that_is_interrupted_or_killed_leaves_a_run_that_goes_on_to_the_same_bits(
    finished, records, tmp_path, number, updates
):
    (tmp_path / "records.json").write_text(json.dumps(records))
    out = tmp_path / "run"
    child = Command(tmp_path / "records.json", out, program=CHILD, stderr=subprocess.PIPE)
    ledger = out / "ledger.jsonl"
    while child.poll() is None and not (
        ledger.exists() and ledger.read_text().count('"event":"update_received"') >= updates
    ):
        time.sleep(0.005)
    child.send_signal(number)
    _, err = child.communicate()
    if number is signal.SIGINT:
        assert "KeyboardInterrupt" in err
        assert f"continue with plait.resume({str(out)!r})" in err
        assert isinstance(read_events(ledger)[-1], Interrupted)
    assert not plait.open_run(out).finished
    plait.resume(out, data=records, quiet=True)
    assert weights(out) == weights(finished)


@pytest.mark.slow
def test_a_run_goes_on_with_its_data_at_another_place_and_with_no_others(finished, records, jsonl, small, tmp_path):
    def pause(event: plait.Event) -> plait.Stop | None:
        return plait.Stop.PAUSE if isinstance(event, RoundFinished) else None

    out, moved = tmp_path / "run", tmp_path / "moved.jsonl"
    plait.simulate(jsonl, partition="natural:author", out=out, callbacks=[pause], **small)
    jsonl.rename(moved)
    with pytest.raises(DataError, match="No such file or directory"):
        plait.resume(out, allow=[f"data={jsonl}"], quiet=True)
    with pytest.raises(ConfigError, match="has changed since the run began"):
        plait.resume(out, data=records[1:], quiet=True)
    run = plait.resume(out, data=moved, quiet=True)
    assert run.finished
    assert run.events[0].config["data"] == str(jsonl)  # type: ignore[attr-defined]
    assert weights(out) == weights(finished)


def test_a_run_of_one_epoch_trains_each_sequence_once(records, small, tmp_path, monkeypatch):
    drawn: list[list[Example]] = []
    draw = Learner.draw

    def counted(learner: Learner) -> tuple[list[list[Example]], int]:
        batches, terms = draw(learner)
        drawn.append([example for batch in batches for example in batch])
        return batches, terms

    monkeypatch.setattr(Learner, "draw", counted)
    how: dict[str, object] = {**small, "rounds": 3, "batch_size": 4, "epochs": 1, "lr_schedule": "cosine"}
    del how["local_steps"]
    run = plait.simulate(records, partition="natural:author", out=tmp_path / "run", **how)  # type: ignore[arg-type]
    events = read_events(run.path / "ledger.jsonl")
    clients = [client for event in events if isinstance(event, ClientsDescribed) for client in event.clients]
    seen = [id(example) for step in drawn for example in step]
    assert len(seen) == len(set(seen)) == sum(client.train_examples for client in clients)
    tokens = [event.tokens for event in events if isinstance(event, UpdateReceived)]
    assert sum(tokens) == sum(client.train_tokens for client in clients)
    assert any(len(step) < 4 for step in drawn)
