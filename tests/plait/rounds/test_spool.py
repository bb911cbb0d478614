from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import plait.rounds.spool as module
from plait.adapters import AdapterState, Layout
from plait.aggregation.sums import WeightedSum
from plait.rounds.spool import side_by_side
from plait.wire.codecs import codec_for


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "cores", lambda: request.param)
    return request.param


def test_results_come_in_the_order_of_the_work_and_few_are_held(threads: int) -> None:
    begun: list[int] = []
    done: list[int] = []
    for number in side_by_side((lambda n=n: begun.append(n) or n for n in range(20)), each_bytes=1):
        assert len(begun) - len(done) <= threads + 1
        done.append(number)
    assert done == list(range(20))
    assert sorted(begun) == done


def test_updates_decoded_on_any_number_of_threads_have_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, codec = Layout.of({"a": (300, 200), "b": (5000,)}), codec_for("1")
    chance = np.random.default_rng(0)
    packed = [
        codec.encode(AdapterState(layout, chance.standard_normal(layout.size).astype(np.float32))) for _ in range(12)
    ]
    means: set[bytes] = set()
    for threads in (1, 2, 3, 5):
        monkeypatch.setattr(module, "cores", lambda threads=threads: threads)
        total = WeightedSum(layout.size)
        for flat in side_by_side(
            (partial(codec.decode, p.parameters, p.payload, layout) for p in packed), each_bytes=1
        ):
            total.add(flat, 0.1)
        means.add(total.mean().tobytes())
    assert len(means) == 1
