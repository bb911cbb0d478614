import json
import os

import numpy as np
import pandas as pd
import pytest

import plait
from plait.adapters.peft_reading import load_peft_directory
from plait.errors import ConfigError
from plait.ledger.events import UpdateReceived
from tests.plait.conftest import broadcast, numbered, received, round_finished, run_started


def by_round_and_client(event: UpdateReceived) -> tuple[int, str]:
    return event.round, event.client


def test_losses_and_updates_are_what_the_ledger_records(finished):
    run = plait.open_run(finished)
    losses = run.losses
    assert list(losses.columns)[:4] == ["round", "client", "adapter", "loss"]
    final = losses[(losses["round"] == 2) & (losses["adapter"] == "shared")].set_index("client")["loss"]
    assert dict(final) == run.summary["held_out_loss_by_client"]
    updates = run.updates
    assert {"round", "client", "bytes", "norm", "drift", "train_loss"} <= set(updates.columns)
    received = [event for event in run.events if isinstance(event, UpdateReceived)]
    assert list(updates["train_loss"]) == [event.train_loss for event in sorted(received, key=by_round_and_client)]
    assert run.summary == json.loads((finished / "summary.json").read_text())


def test_it_stands_for_its_directory(finished):
    run = plait.open_run(finished)
    assert os.fspath(run) == str(finished)
    assert run.finished
    assert repr(run).startswith(f"<plait.Result '{finished}': 2 rounds, held-out loss ")


def test_adapters_are_peft_directories_the_shared_one_and_each_client_s(finished):
    run = plait.open_run(finished)
    shared = load_peft_directory(run.adapter()).tensors
    own = {client: load_peft_directory(run.adapter(client)).tensors for client in ("ada", "bob")}
    assert run.adapter("ada") == run.adapter("ada")
    for tensors in own.values():
        assert tensors.keys() == shared.keys()
        assert any(not np.array_equal(tensors[name], shared[name]) for name in shared)
    assert any(not np.array_equal(own["ada"][name], own["bob"][name]) for name in shared)
    with pytest.raises(ConfigError, match="did you mean 'ada'"):
        run.adapter("adda")


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        plait.open_run(tmp_path)


def test_losses_have_a_row_per_round_client_and_kind_of_adapter(run_with_own, write_ledger):
    frame = plait.open_run(write_ledger(run_with_own(2.25, {"ann": 2.0, "bob": 2.5}))).losses
    shared = frame[frame.adapter == "shared"].pivot_table(index="round", columns="client", values="loss")
    assert shared.to_dict("list") == {"ann": [3.0, 2.75, 2.5], "bob": [5.0, 4.25, 3.5]}
    personalized = frame[frame.adapter == "personalized"]
    assert personalized[["round", "client", "loss"]].values.tolist() == [[2, "ann", 2.0], [2, "bob", 2.5]]


def test_updates_count_every_byte_of_the_client_in_its_round(small_run, write_ledger):
    first = plait.open_run(write_ledger(small_run)).updates.set_index(["round", "client"]).loc[(1, "ann")]
    # Training, then an evaluation in the same round.
    assert (first.downlink_bytes, first.uplink_bytes) == (1000 + 100, 3000 + 50)
    assert first.bytes == 1000 + 100 + 3000 + 50
    assert (first.norm, first.drift, first.train_loss, first.tokens) == (0.5, 1.0, 3.0, 100)
    assert pd.isna(first.first_loss)


def test_an_asynchronous_update_is_of_the_round_that_it_is_part_of(small_run, write_ledger):
    late = received(1, "ann", 3000) | {"fold": 2, "staleness": 1, "weight": 1.0}
    run = numbered([small_run[0], broadcast(1, "ann", 500), late, round_finished(1, 0), round_finished(2, 1)])
    (update,) = plait.open_run(write_ledger(run)).updates.to_dict("records")
    assert (update["round"], update["client"], update["uplink_bytes"], update["norm"]) == (2, "ann", 3000, 0.5)


def test_rounds_state_the_bytes_before_each_evaluation(small_run, write_ledger):
    before_round_1 = 2 * (10 + 20)
    before_round_2 = before_round_1 + 1000 + 2000 + 3000 + 4000 + 100 + 50
    frame = plait.open_run(write_ledger(small_run)).rounds
    assert frame["round"].tolist() == [0, 1, 2]
    assert frame.loss.tolist() == [4.0, 3.5, 3.0]
    assert frame.bytes.tolist() == [before_round_1, before_round_2, before_round_2 + 10_000]


@pytest.mark.parametrize("name", ["losses", "judged", "updates", "rounds"])
def test_columns_and_types_are_the_same_before_anything_has_happened(name, small_run, write_ledger):
    run = plait.open_run(write_ledger(numbered([run_started()])))
    empty = getattr(run, name)
    (run.path / "ledger.jsonl").unlink()
    full = getattr(plait.open_run(write_ledger(small_run)), name)
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
