import itertools
import math

import pytest

from plait.features.privacy.accountant import epsilon_at
from plait.features.privacy.mechanism import ClientPrivacy, multiplier_for
from plait.features.privacy.rests import Rests


@pytest.mark.parametrize("rounds", [2, 3, 5, 8, 9])
@pytest.mark.parametrize("separation", [2, 3, 4])
def test_no_way_to_take_part_moves_more_than_the_stated_sensitivity(rounds, separation):
    for prefix in range(1, rounds + 1):
        ways = (
            chosen
            for count in range(1, prefix + 1)
            for chosen in itertools.combinations(range(prefix), count)
            if all(b - a >= separation for a, b in itertools.pairwise(chosen))
        )
        most = math.sqrt(max(map(len, ways)))
        assert Rests(separation, rounds).sensitivity(prefix) == pytest.approx(most, rel=1e-12)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("multiplier", [0.5, 1.0, 6.0])
def test_epsilon_is_that_of_one_gaussian_mechanism_with_this_sensitivity(multiplier, delta):
    rests = Rests(5, 20)
    twice = multiplier * 2  # a client takes part in four of twenty rounds
    privacy = ClientPrivacy(twice, delta, None, 10, 1.0, 0.5, 1.0, rests)
    assert privacy.epsilon_after(20) == pytest.approx(epsilon_at(delta, 1 / multiplier), rel=1e-9)
    by_round = [privacy.epsilon_after(number) for number in range(21)]
    assert by_round == sorted(by_round)
    assert by_round[0] == 0
    assert privacy.most_charges == 20
    assert multiplier_for(privacy.epsilon_after(20), delta, 20, rests) == pytest.approx(twice, rel=1e-5)
