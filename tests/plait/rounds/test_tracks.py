from dataclasses import replace

import numpy as np
import pytest

from plait.aggregation import Resizing


@pytest.fixture
def mixed(federate):
    return federate(ranks={"bob": 1}).ranks


def test_a_client_gets_the_largest_rank_that_it_can_carry(mixed):
    assert [mixed.track_for(max_rank) for max_rank in (0, 1, 2, 7)] == [0, 1, 0, 0]


def test_where_no_client_has_the_servers_rank_none_gets_it(mixed):
    lower = replace(mixed, clients_have_masters=False)
    assert [lower.track_for(max_rank) for max_rank in (0, 1, 9)] == [1, 1, 1]
    assert lower.cohort == (mixed.adapters[1].geometry,)


def test_all_ranks_begin_with_the_same_rows(mixed):
    resized = mixed.resized(mixed.master.initial, 1)
    np.testing.assert_array_equal(resized.flat, mixed.adapters[1].initial.flat)


def test_a_lower_rank_is_handed_the_best_product_where_the_rule_says_so(mixed):
    best = replace(mixed, resizing=Resizing.BEST)
    (wide,), (narrow,) = mixed.master.geometry.pairs, mixed.adapters[1].geometry.pairs
    master = mixed.master.initial
    u, s, vt = np.linalg.svd(wide.scale * wide.b_of(master.flat) @ wide.a_of(master.flat))
    flat = best.resized(master, 1).flat
    np.testing.assert_allclose(
        narrow.scale * narrow.b_of(flat) @ narrow.a_of(flat), s[0] * np.outer(u[:, 0], vt[0]), atol=1e-5
    )
