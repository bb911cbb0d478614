from collections import Counter

import numpy as np
import pytest

from plait.features.secagg.roster import FAR, distances, groups_for
from plait.features.secagg.sums import seated


@pytest.mark.parametrize(
    ("clients", "groups"), [(3, 1), (8, 1), (23, 1), (24, 3), (40, 5), (64, 8), (100, 8), (1000, 8)]
)
def test_groups_are_at_least_three_of_at_least_eight(clients, groups):
    assert groups_for(clients) == groups


@pytest.mark.parametrize("count", [1, 3, 8])
def test_every_name_is_in_one_group_and_sizes_differ_by_one_at_most(count):
    names = [f"client-{number}" for number in range(100)]
    seats = seated(names, count, key="key", before={})
    sizes = Counter(seats.values())
    assert seats.keys() == set(names)
    assert max(sizes.values()) - min(sizes.values()) <= 1
    assert seats == seated(names[::-1], count, key="key", before={})
    assert count == 1 or seats != seated(names, count, key="another", before={})


def test_whoever_comes_or_is_away_the_others_keep_their_group():
    seats = seated("abcdefgh", 3, key="key", before={})
    later = seated("abcxyz", 3, key="another", before=seats)
    assert {name: later[name] for name in seats} == seats
    assert sorted(Counter(later.values()).values()) == [3, 4, 4]


@pytest.mark.parametrize("groups", [3, 4, 5, 8])
@pytest.mark.parametrize("agreement", [0.1, 1.0])
def test_means_of_like_groups_lie_about_as_far_apart_and_one_that_is_moved_does_not(groups, agreement):
    generator = np.random.default_rng(groups)
    shared = agreement * generator.standard_normal(4096)
    means = [(shared + generator.standard_normal(4096)).astype(np.float32) for _ in range(groups)]
    assert max(distances(means)) < 1.5
    for moved in (means[0] * 10, means[0] + 10, -10 * means[0], means[0] + 5 * generator.standard_normal(4096)):
        found = distances([moved.astype(np.float32), *means[1:]])
        assert [distance > FAR for distance in found] == [True] + [False] * (groups - 1)


def test_groups_that_are_equal_lie_nowhere_apart():
    means = [np.ones(8, np.float32)] * 3
    assert distances(means) == (1.0, 1.0, 1.0)
    assert distances([*means, np.zeros(8, np.float32)])[-1] == np.inf
