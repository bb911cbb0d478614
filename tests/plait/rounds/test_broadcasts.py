from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from plait.adapters import AdapterState, norm, subtract
from plait.compress.downlink import Downlink, take_step
from plait.rounds.broadcasts import Broadcasts, follow
from plait.rounds.run_state import Track, advance, initial_state
from plait.wire.codecs import codec_for
from plait.wire.envelope import Direction, open_envelope

BASE = b"b" * 32
RATE = codec_for("1")


@pytest.fixture
def spec(spec_and_state):
    return spec_and_state[0]


@pytest.fixture
def start(ranks):
    return initial_state(b"r" * 16, ranks)


def stepped(state, seed=1):
    values = np.random.default_rng(seed).normal(size=state.adapter.layout.size).astype(np.float32)
    return advance(state, AdapterState(state.adapter.layout, values))


def followed(state, ranks, bits, *, new_factors=False, **more):
    return follow(state, ranks, BASE, codec=codec_for(bits), new_factors=new_factors, **more)


def residual(state):
    return norm(subtract(state.adapter, state.shadow))


@pytest.mark.parametrize("bits", ["fp32", "bf16"])
def test_the_step_leads_from_the_shadow_before_to_this_one_bit_for_bit(spec, ranks, start, bits):
    state, encoding = followed(stepped(start), ranks, bits)
    opened = open_envelope(state.tracks[0].broadcast, layout=spec.layout)
    assert opened.header.direction is Direction.BROADCAST
    assert (opened.header.round, opened.header.run_id) == (1, b"r" * 16)
    assert (opened.header.base_fingerprint, opened.header.spec_digest) == (BASE, spec.digest)
    assert opened.header.relative_to == state.tracks[0].previous == start.shadow.digest()
    client = take_step(start.shadow, opened.delta, opened.encoding.codec)
    assert client.digest() == opened.header.result_digest == state.shadow.digest()
    assert encoding.codec == bits


def test_what_the_wire_dropped_travels_with_the_next_broadcast(spec, ranks, start):
    dropped = [norm(subtract(stepped(start).adapter, start.shadow))]
    state = stepped(start)
    for _ in range(3):
        state, _ = followed(state, ranks, "bf16")
        dropped.append(residual(state))
    assert dropped[1] > 0
    # bfloat16 keeps 8 bits: each broadcast leaves at most 2^-9 of what it was to carry.
    for before, after in pairwise(dropped[:3]):
        assert after <= before * 2**-8


@pytest.mark.parametrize(("bits", "turned"), [("1", "4"), ("2", "4"), ("6", "6"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_factors_that_were_turned_travel_finer(ranks, start, bits, turned):
    state = stepped(start)
    as_turned, _ = followed(state, ranks, bits, new_factors=True)
    as_finer, _ = followed(state, ranks, turned)
    assert as_turned.tracks[0].broadcast == as_finer.tracks[0].broadcast


def test_a_round_that_changed_nothing_changes_no_bit_at_either_end(spec, ranks, start):
    # -0.0 + 0.0 is 0.0: an adapter with other bits, and another digest.
    flat = start.shadow.flat.copy()
    flat[0] = -0.0
    adapter = AdapterState(spec.layout, flat)
    state, encoding = followed(replace(start, adapter=adapter, tracks=(Track(adapter),)), ranks, "fp32")
    assert encoding.codec == "unchanged"
    assert state.shadow.digest() == adapter.digest()


def test_each_client_is_sent_what_it_lacks(spec, ranks, start):
    first, _ = followed(stepped(start), ranks, "bf16")
    state, _ = followed(stepped(first), ranks, "bf16")
    broadcasts = Broadcasts(state, ranks, BASE)

    nothing = open_envelope(broadcasts.leading_from(state.shadow.digest(), 0), layout=spec.layout)
    assert (nothing.encoding.payload_bytes, nothing.header.relative_to) == (0, state.shadow.digest())

    assert broadcasts.leading_from(first.shadow.digest(), 0) == state.tracks[0].broadcast

    for held in (b"", b"x" * 32):
        whole = open_envelope(broadcasts.leading_from(held, 0), layout=spec.layout)
        assert (whole.header.relative_to, whole.header.spec_json) == (b"", spec.text)
        np.testing.assert_array_equal(whole.delta.flat, state.shadow.flat)
    assert {opened.header.result_digest for opened in (nothing, whole)} == {state.shadow.digest()}


FEW = Downlink(gap=8, rounds=24)


def test_a_keyframe_leads_from_the_initial_adapter_whatever_a_client_holds(spec, ranks, start):
    before, state = start, start
    for seed in range(3):
        before = state
        state, _ = followed(stepped(state, seed), ranks, "1", downlink=FEW)
    broadcasts = Broadcasts(state, ranks, BASE)
    of_anybody = {broadcasts.leading_from(held, 0) for held in (before.shadow.digest(), start.shadow.digest(), b"x")}
    assert of_anybody == {state.tracks[0].broadcast}
    for data in (state.tracks[0].broadcast, broadcasts.leading_from(b"", 0)):
        opened = open_envelope(data, layout=spec.layout)
        client = take_step(start.shadow, opened.delta, opened.encoding.codec)
        assert client.digest() == opened.header.result_digest == state.shadow.digest()
    assert opened.header.spec_json == spec.text


def test_keyframes_are_taken_where_clients_are_away_by_plan_and_cost_as_much_for_all():
    assert not Downlink(gap=1, rounds=24).has_keyframes(RATE)
    assert FEW.has_keyframes(RATE)
    for age in (1, 8, 100, None):
        assert FEW.sent_bits(RATE, 12, age) == FEW.keyframe(RATE, 12).bits < 8
    assert FEW.sent_bits(RATE, 12, 0) == 0
    assert [Downlink(gap=1).sent_bits(RATE, 40, age) for age in (0, 1, 3, None)] == [0, 1, 32, 32]
    assert not FEW.has_keyframes(codec_for("fp32"))
    # A run that goes on from an adapter has finer ones, and one before its first round.
    from_adapter = replace(FEW, starts_anew=False)
    for number in (1, 12, 24):
        assert from_adapter.keyframe(RATE, number).bits > FEW.keyframe(RATE, number).bits
    assert from_adapter.sent_bits(RATE, 0, None) == from_adapter.keyframe(RATE, 0).bits == 8
    assert all(from_adapter.sent_bits(RATE, 12, age) < 8 for age in (1, 8, 100, None))
    # With all clients in all rounds, it has steps after that.
    everyone = replace(from_adapter, gap=1)
    assert [everyone.sent_bits(RATE, 1, age) for age in (0, 1, None)] == [0, 1, 32]
    assert everyone.takes_keyframe(RATE, 0, 0)
    assert not everyone.takes_keyframe(RATE, 1, 0)


def test_a_round_that_many_clients_missed_ends_with_a_keyframe_and_steps_go_on_from_it(spec, ranks, start):
    everyone = Downlink(gap=1, rounds=5, clients=8)
    assert [everyone.takes_keyframe(RATE, 2, missed) for missed in (0, 1, 8)] == [False, True, True]
    assert not Downlink(gap=1, rounds=24, clients=1000).takes_keyframe(RATE, 2, 1)
    state, origins = start, []
    for missed in (0, 1, 0):
        held = state.shadow.digest()
        state, _ = followed(stepped(state), ranks, "1", downlink=everyone, missed=missed)
        origins.append(state.tracks[0].previous == (start.shadow.digest() if missed else held))
    assert all(origins)
