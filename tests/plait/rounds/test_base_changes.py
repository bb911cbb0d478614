from dataclasses import replace

import numpy as np
import pytest

from plait.aggregation import BaseDelta, LowRank
from plait.errors import PeerError
from plait.rounds.base_changes import base_of, kept_base, layout_from_text, packed, whole_base
from plait.rounds.client_state import Kept
from plait.rounds.moved_base import MovedBase


def delta(seed, columns):
    generator = np.random.default_rng(seed)
    return BaseDelta({"layer": LowRank(generator.normal(size=(3, columns)), generator.normal(size=(columns, 5)))})


def product(base):
    factors = base.delta.factors["layer"]
    return factors.b @ factors.a


@pytest.fixture
def geometry(ranks):
    return ranks.master.geometry


@pytest.mark.parametrize("columns", [[1], [5], [1, 1], [2, 1, 4], [1, 2, 3, 4, 5]])
def test_steps_add_up_in_no_more_columns_than_the_weight_has_rows(geometry, columns):
    base, expected = MovedBase(), np.zeros((3, 5))
    for seed, count in enumerate(columns):
        change = delta(seed, count)
        expected = expected + change.factors["layer"].b @ change.factors["layer"].a
        base = base.after(packed(change, geometry)[0], geometry)

    np.testing.assert_allclose(product(base), expected, atol=1e-4)
    assert base.delta.factors["layer"].columns <= 3


def test_the_whole_base_is_to_the_bit_what_the_steps_came_to(geometry):
    base = MovedBase()
    for seed in range(4):
        base = base.after(packed(delta(seed, 2), geometry)[0], geometry)
    state, text = packed(base.delta, geometry)

    assert layout_from_text(text, geometry) == state.layout
    newcomer = whole_base(state, geometry, base.digest)

    for name, array in newcomer.delta.to_arrays().items():
        np.testing.assert_array_equal(array, base.delta.to_arrays()[name])


def test_a_base_has_another_digest_after_every_step_and_the_same_after_the_same(geometry):
    steps = [packed(delta(seed, 1), geometry)[0] for seed in range(3)]
    one = MovedBase().after(steps[0], geometry).after(steps[1], geometry)
    same = MovedBase().after(steps[0], geometry).after(steps[1], geometry)
    other = MovedBase().after(steps[1], geometry).after(steps[0], geometry)
    assert one.digest == same.digest != other.digest
    assert MovedBase().digest == b""


def test_it_survives_being_written_down(geometry):
    base = MovedBase().after(packed(delta(1, 2), geometry)[0], geometry)
    kept = base_of(kept_base(base, geometry), geometry)
    assert kept.digest == base.digest
    np.testing.assert_array_equal(product(kept), product(base))


@pytest.mark.parametrize("damage", [{"columns": "junk"}, {"digest": "xy"}, {"columns": '{"columns":1}'}, {}])
def test_a_damaged_memory_is_a_base_that_has_not_moved(geometry, damage):
    kept = kept_base(MovedBase().after(packed(delta(1, 2), geometry)[0], geometry), geometry)
    damaged = replace(kept, tags={**kept.tags, **damage}) if damage else Kept()
    assert base_of(damaged, geometry).digest == b""


HOSTILE = {
    "no JSON": "{",
    "a list": "[1]",
    "nothing": "{}",
    "too few": '{"columns":[]}',
    "too many": '{"columns":[1,1]}',
    "more than the weight can have": '{"columns":4}',
    "negative": '{"columns":-1}',
    "huge": '{"columns":1e99}',
    "a truth": '{"columns":true}',
    "text": '{"columns":["1"]}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_layout_that_cannot_be_is_the_peers_fault(geometry, what):
    with pytest.raises(PeerError):
        layout_from_text(HOSTILE[what], geometry)
