import itertools
import json
import math
from pathlib import Path

import pytest

from plait.privacy.mechanism import ClientPrivacy, multiplier_for
from plait.privacy.rests import Rests

ORACLE = json.loads((Path(__file__).parent / "oracle.json").read_text())


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


@pytest.mark.parametrize("case", [each for each in ORACLE if each["rounds"] == 1], ids=str)
def test_epsilon_is_dp_accounting_s_of_one_gaussian_mechanism_with_this_sensitivity(case):
    rests = Rests(5, 20)
    multiplier = case["multiplier"] * 2  # a client takes part in four of twenty rounds
    privacy = ClientPrivacy(multiplier, case["delta"], None, 10, 1.0, 0.5, 1.0, rests)
    assert privacy.epsilon_after(20) == pytest.approx(case["epsilon"], rel=1e-7)
    by_round = [privacy.epsilon_after(number) for number in range(21)]
    assert by_round == sorted(by_round)
    assert by_round[0] == 0
    assert privacy.most_charges == 20
    assert multiplier_for(case["epsilon"], case["delta"], 20, rests) == pytest.approx(multiplier, rel=1e-5)
