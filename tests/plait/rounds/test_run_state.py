from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.aggregation import Resizing
from plait.rounds.run_state import client_seed, sample_cohort

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


def test_client_seeds_differ_by_seed_round_and_client_and_fit_a_task():
    seeds = {client_seed(seed, number, name) for seed in range(5) for number in range(5) for name in NAMES}
    assert len(seeds) == 5 * 5 * len(NAMES)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert client_seed(1, 2, "bob") == client_seed(1, 2, "bob")


@pytest.fixture
def mixed(federate):
    return federate(ranks={"bob": 1}).ranks


def test_a_client_gets_the_largest_rank_that_it_can_carry(mixed):
    assert [mixed.track_for(max_rank) for max_rank in (0, 1, 2, 7)] == [0, 1, 0, 0]


def test_a_lower_rank_is_handed_the_best_product_where_the_rule_says_so(mixed):
    best = replace(mixed, resizing=Resizing.BEST)
    (wide,), (narrow,) = mixed.master.geometry.pairs, mixed.adapters[1].geometry.pairs
    master = mixed.master.initial
    u, s, vt = np.linalg.svd(wide.scale * wide.b_of(master.flat) @ wide.a_of(master.flat))
    flat = best.resized(master, 1).flat
    np.testing.assert_allclose(
        narrow.scale * narrow.b_of(flat) @ narrow.a_of(flat), s[0] * np.outer(u[:, 0], vt[0]), atol=1e-5
    )
