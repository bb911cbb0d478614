from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from plait.training.bases import LocatedBase, locate_base
from plait.training.device import Compute
from simulations.bench.echo import echo_channel
from simulations.bench.simulate import Workload, deal_out, round_row, rows, stock_app


@pytest.fixture(scope="module")
def work() -> Workload:
    tiny: LocatedBase = locate_base("tiny")
    compute = Compute(torch.device("cpu"), torch.float32)
    return Workload(tiny, compute, clients=3, rounds=2, local_steps=1, batch_size=1, seq_len=32, characters=4000)


def test_every_client_has_text_and_none_of_it_is_judged(work: Workload, tmp_path: Path) -> None:
    held_out = deal_out(work, tmp_path)
    clients = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len({client["client"] for client in clients}) == len(held_out.records) == 3
    for client, judged in zip(clients, held_out.records, strict=True):
        assert len(client["text"]) + len(judged.text) == 4000
        assert 390 < len(judged.text) < 410


def test_the_peer_knows_nothing_of_plait() -> None:
    sources = [path.read_text() for path in (stock_app() / "stock").glob("*.py")]
    assert len(sources) == 4
    assert not any("import plait" in source or "from plait" in source for source in sources)


def test_a_round_of_clients_that_do_nothing_is_a_row() -> None:
    row = round_row(echo_channel(5), 5, rounds=3)
    assert (row.row, row.unit) == ("no-op round of 5 clients, in process: median", "s")
    assert row.value > 0


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.extra("flower-simulation")
def test_both_simulations_reach_the_same_loss(work: Workload, tmp_path: Path) -> None:
    found = {row.row.removeprefix(f"{work}: "): row for row in rows(work, tmp_path, repetitions=1)}
    assert len(found) == 6
    assert all(row.value > 0 and len(row.peers) == 1 for row in found.values())
    after, before = found["loss after 2 rounds on text not seen"], found["loss of the base on it"]
    (theirs,) = after.peers.values()
    assert after.value == pytest.approx(theirs, abs=0.05)
    assert after.value < before.value
