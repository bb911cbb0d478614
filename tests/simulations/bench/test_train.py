import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Self

import pytest

from plait.training.bases import locate_base
from simulations.bench import train
from simulations.bench.train import MAIN_THREAD, Speeds, speeds
from simulations.bench.train_ways import PEERS, Workload


@pytest.fixture(scope="module")
def work() -> Workload:
    tiny = locate_base("tiny")
    return Workload(
        tiny.directory, tiny.reference.fingerprint, device="cpu", dtype="float32", threads=1, batch_size=1, seq_len=16,
        rank=2,
    )  # fmt: skip


def test_ratios_are_of_medians_and_above_1_where_plait_is_faster():
    rates = {"plait": [30.0, 10.0, 20.0], "slow": [10.0, 5.0, 16.0], "fast": [40.0, 40.0, 40.0], "limit": [50.0] * 3}
    found = Speeds("work", rates, {"plait": 2.0, "slow": 2.1, "fast": 2.2}, "wall time")
    rate, deviation, loss = (row.to_json() for row in found.rows())
    assert rate["value"] == 20.0
    assert rate["peers"] == {"slow": 10.0, "fast": 40.0}
    assert (rate["ratio_to_best_peer"], rate["ratio_to_limit"]) == (0.5, 0.4)
    assert deviation["value"] == 0.5
    assert loss["peers"] == {"slow": 2.1, "fast": 2.2}
    assert [row[0] for row in found.table().rows] == list(rates)


class _Here(contextlib.nullcontext[None]):
    """In the place of a process for each way, which would load all libraries again."""

    def __enter__(self) -> Self:
        return self

    def submit(self, function: Callable[..., object], *arguments: object) -> Future[object]:
        done: Future[object] = Future()
        done.set_result(function(*arguments))
        return done


@pytest.mark.slow
def test_all_ways_take_the_same_steps(work, monkeypatch):
    monkeypatch.setattr(train, "_process", _Here)
    monkeypatch.setattr(train, "_READY", {})
    found = speeds(work, repetitions=1, steps=1, clock=MAIN_THREAD)
    assert set(found.rates) == {"plait", "limit", *PEERS}
    assert all(len(rates) == 1 and rates[0] > 0 for rates in found.rates.values())
    assert found.losses["plait"] == pytest.approx(found.losses["PEFT, float32"], rel=1e-3)
    for way in PEERS:
        assert found.losses[way] == pytest.approx(found.losses["plait"], rel=5e-2)
