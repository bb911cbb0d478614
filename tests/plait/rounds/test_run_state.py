import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.adapters import AdapterState
from plait.rounds.run_state import advance, client_seed, initial_state, note_held, sample_cohort

NAMES = [f"client-{number}" for number in range(20)]


@given(size=st.integers(1, 25), seed=st.integers(0, 2**63 - 1), number=st.integers(1, 10**6))
def test_a_cohort_is_a_sorted_sample_without_replacement(size, seed, number):
    cohort = sample_cohort(NAMES, size, seed=seed, round_number=number)
    assert list(cohort) == sorted(set(cohort))
    assert len(cohort) == min(size, len(NAMES))
    assert set(cohort) <= set(NAMES)


def test_a_cohort_is_decided_by_seed_and_round_and_not_by_the_order_of_names():
    cohort = sample_cohort(NAMES, 5, seed=1, round_number=1)
    assert cohort == sample_cohort(NAMES[::-1], 5, seed=1, round_number=1)
    assert len({sample_cohort(NAMES, 5, seed=1, round_number=number) for number in range(1, 20)}) > 15
    assert len({sample_cohort(NAMES, 5, seed=seed, round_number=1) for seed in range(1, 20)}) > 15


def test_every_client_has_its_turn():
    drawn = [name for number in range(1, 401) for name in sample_cohort(NAMES, 5, seed=0, round_number=number)]
    counts = [drawn.count(name) for name in NAMES]
    # Binomial(400, 1/4): mean 100, standard deviation 8.7; five of those to either side.
    assert all(56 < count < 144 for count in counts)


def test_everybody_is_in_a_cohort_that_is_large_enough():
    assert sample_cohort(["b", "a"], 2, seed=0, round_number=1) == ("a", "b")


def test_client_seeds_differ_by_seed_round_and_client_and_fit_a_task():
    seeds = {client_seed(seed, number, name) for seed in range(5) for number in range(5) for name in NAMES}
    assert len(seeds) == 5 * 5 * len(NAMES)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert client_seed(1, 2, "bob") == client_seed(1, 2, "bob")


def test_advancing_moves_the_master_and_leaves_the_shadow(ranks):
    adapter = ranks.master.initial
    state = initial_state(b"r" * 16, ranks)
    step = AdapterState(adapter.layout, np.full(adapter.layout.size, 0.5, np.float32))
    after = advance(state, step)
    assert after.round == 1
    np.testing.assert_array_equal(after.adapter.flat, adapter.flat + np.float32(0.5))
    assert after.shadow is adapter
    assert state.round == 0


def test_noting_what_a_client_holds_leaves_the_state_before_alone(ranks):
    state = initial_state(b"r" * 16, ranks)
    after = note_held(note_held(state, {"bob": b"1", "eve": b"3"}), {"bob": b"2"})
    assert (dict(state.held), dict(after.held)) == ({}, {"bob": b"2", "eve": b"3"})


def test_before_round_1_the_shadow_is_the_master(ranks):
    state = initial_state(b"r" * 16, ranks)
    assert state.shadow is state.adapter
    assert (state.tracks[0].previous, state.tracks[0].broadcast) == (b"", b"")
    with pytest.raises(AttributeError):
        state.round = 1
