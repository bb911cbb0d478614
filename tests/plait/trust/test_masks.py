import itertools

import pytest

from plait.errors import PeerError
from plait.guarantees import COMPLETE, threshold_of
from plait.trust.masks import PRIME, check_share, combine, split
from plait.wire.masked_roster import CYCLES, neighbours

SECRET = bytes(range(32))


def test_every_large_enough_group_has_the_secret():
    shares = split(SECRET, threshold=3, count=5)
    for count in range(3, 6):
        for points in itertools.combinations(range(1, 6), count):
            assert combine({point: shares[point - 1] for point in points}, threshold=3) == SECRET


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_smallest_and_the_largest_secret(secret):
    shares = split(secret, threshold=67, count=100)
    assert combine(dict(enumerate(shares[33:], start=34)), threshold=67) == secret


def test_fewer_shares_fit_every_secret_equally():
    """With the polynomial known, two of three shares are consistent with another secret: one more share differs."""
    draws = iter([5, 7])
    one = split(SECRET, threshold=3, count=3, below=lambda _: next(draws))
    value = int.from_bytes(SECRET, "big")
    expected = [(value + 5 * x + 7 * x * x) % PRIME for x in (1, 2, 3)]
    assert [int.from_bytes(share, "big") for share in one] == expected
    # The polynomial with the same values at 1 and 2 and the secret + 2 has coefficients 5 - 3 and 7 + 1.
    other = iter([2, 8])
    shifted = (value + 2).to_bytes(32, "big")
    two = split(shifted, threshold=3, count=3, below=lambda _: next(other))
    assert two[:2] == one[:2]
    assert two[2] != one[2]


def test_too_few_shares_are_refused():
    shares = split(SECRET, threshold=3, count=5)
    with pytest.raises(PeerError, match="2 shares"):
        combine({1: shares[0], 2: shares[1]}, threshold=3)


@pytest.mark.parametrize("share", [b"", bytes(32), bytes(34), b"\xff" * 33, PRIME.to_bytes(33, "big")])
def test_impossible_shares_are_refused(share):
    with pytest.raises(PeerError):
        check_share(share)


@pytest.mark.parametrize(("count", "threshold"), [(3, 2), (4, 3), (5, 4), (100, 67), (65, 44)])
def test_two_groups_of_the_threshold_share_an_honest_member(count, threshold):
    assert threshold_of(count) == threshold
    most_colluding = (count - 1) // 3 if count % 3 else count // 3 - 1
    assert 2 * threshold - count > most_colluding or most_colluding == 0


@pytest.mark.parametrize("count", [3, COMPLETE, COMPLETE + 1, 1000])
def test_neighbours_are_mutual(count):
    graph = neighbours(count, b"r" * 32)
    expected = range(45, 2 * CYCLES + 1) if count > COMPLETE else [count - 1]
    assert all(len(set(mine)) in expected and one not in mine for one, mine in enumerate(graph))
    assert all(one in graph[other] for one, mine in enumerate(graph) for other in mine)


def test_another_roster_has_another_graph():
    assert neighbours(1000, b"r" * 32) != neighbours(1000, b"s" * 32)
