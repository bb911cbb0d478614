import json
import os
from pathlib import Path

import numpy as np
import pytest

import plait
from plait.adapters.peft_reading import load_peft_directory
from plait.errors import ConfigError
from plait.ledger.events import UpdateReceived


def by_round_and_client(event: UpdateReceived) -> tuple[int, str]:
    return event.round, event.client


def test_losses_and_updates_are_what_the_ledger_records(finished: Path) -> None:
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


def test_it_stands_for_its_directory(finished: Path) -> None:
    run = plait.open_run(finished)
    assert os.fspath(run) == str(finished)
    assert run.finished
    assert repr(run).startswith(f"<plait.Result '{finished}': 2 rounds, held-out loss ")


def test_adapters_are_peft_directories_the_shared_one_and_each_client_s(finished: Path) -> None:
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


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        plait.open_run(tmp_path)
