from __future__ import annotations

import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.aggregation import Side
from plait.rounds.hooks import kept_lead, kept_side, own_adapter, share_at_start, with_own
from plait.wire.settings import Settings

LAYOUT = Layout.of({"a": (2, 3)})


def state(value):
    return AdapterState(LAYOUT, np.full(6, value, np.float32))


def settings(done=0, share=0.5):
    return Settings(
        local_steps=4,
        batch_size=1,
        gradient_accumulation_steps=1,
        seq_len=8,
        learning_rate=1e-3,
        weight_decay=0.0,
        max_grad_norm=1.0,
        held_out_fraction=0.1,
        max_held_out_sequences=1,
        seed=0,
        done_steps=done,
        total_steps=12,
        own_share=share,
    )


def test_the_last_round_alone_begins_on_the_way_to_the_clients_own():
    assert [share_at_start(settings(done)) for done in (0, 4, 8)] == [0.0, 0.0, pytest.approx(0.5 / 7)]


def test_a_clients_own_lies_between_the_shared_adapter_and_where_its_steps_lead():
    kept = kept_lead(state(3), 0.75)
    assert own_adapter(state(1), kept, 0.75).flat.tolist() == [2.5] * 6
    assert own_adapter(state(1), kept, 0.0).flat.tolist() == [1.0] * 6
    assert kept.tags == {"kind": "own adapter", "share": "0.75"}


def test_every_client_ends_with_its_own_and_is_judged_by_both(federate):
    federation = federate(rounds=4, settings={"own_share": 0.5, "total_steps": 8})
    after = federation.run().adapter.flat
    plan, shared = federation.plan, federation.initial.flat.astype(np.float64)
    names = sorted(federation.models)
    apart = dict.fromkeys(names, np.zeros(shared.size))
    sizes = np.array([federation.models[name].train_examples for name in names], np.float64)

    for number in range(1, plan.rounds + 1):
        share = 0.5 / 7 if number == plan.rounds else 0.0
        starts = {name: shared + share * apart[name] for name in names}
        left = {name: federation.train_alone(name, starts[name], number) for name in names}
        led = {name: left[name] + (0.7 - share) * apart[name] for name in names}
        shared = shared + sizes @ np.array([left[name] - starts[name] for name in names]) / sizes.sum()
        apart = {name: led[name] - shared for name in names}
    np.testing.assert_allclose(after, shared, rtol=0, atol=1e-6)

    evaluated = federation.of_kind("evaluated")
    assert [event["round"] for event in evaluated if "own" in event] == [plan.rounds]
    last = evaluated[-1]
    for name in names:
        target = federation.models[name].target
        for found, adapter in ((last, shared), (last["own"], shared + 0.5 * apart[name])):
            assert found["by_client"][name]["loss"] == pytest.approx(np.mean((adapter - target) ** 2), rel=1e-4)


def test_a_side_stays_with_its_client_and_the_other_follows_the_server(ranks):
    geometry, mine = ranks.master.geometry, ranks.master.initial
    (pair,) = geometry.pairs
    broadcast = AdapterState(mine.layout, mine.flat + np.float32(1))

    state = with_own(broadcast, kept_side(mine, geometry, Side.B), geometry, Side.B)

    np.testing.assert_array_equal(pair.b_of(state.flat), pair.b_of(mine.flat))
    np.testing.assert_array_equal(pair.a_of(state.flat), pair.a_of(broadcast.flat))
