import numpy as np

from plait.adapters import AdapterState
from plait.aggregation import Side
from plait.rounds.memory import Kept
from plait.rounds.own_adapter import kept_side, with_own, without


def test_a_side_stays_with_its_client_and_the_other_follows_the_server(ranks):
    geometry, mine = ranks.master.geometry, ranks.master.initial
    (pair,) = geometry.pairs
    broadcast = AdapterState(mine.layout, mine.flat + np.float32(1))

    state = with_own(broadcast, kept_side(mine, geometry, Side.B), geometry, Side.B)

    np.testing.assert_array_equal(pair.b_of(state.flat), pair.b_of(mine.flat))
    np.testing.assert_array_equal(pair.a_of(state.flat), pair.a_of(broadcast.flat))


def test_a_client_without_one_begins_with_the_servers(ranks):
    assert with_own(ranks.master.initial, Kept(), ranks.master.geometry, Side.A) is ranks.master.initial


def test_a_side_that_is_left_out_is_zero_and_the_other_untouched(ranks):
    (pair,) = ranks.master.geometry.pairs
    delta = without(ranks.master.initial, ranks.master.geometry, Side.A)
    assert not pair.a_of(delta.flat).any()
    np.testing.assert_array_equal(pair.b_of(delta.flat), pair.b_of(ranks.master.initial.flat))
