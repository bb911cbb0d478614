import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from plait.errors import ConfigError
from plait.privacy.correlation import Correlation, blt_for, independent
from plait.privacy.mechanism import ClientPrivacy, PrivateMean, multiplier_for

ORACLE = json.loads((Path(__file__).parent / "oracle.json").read_text())


def matrix(correlation: Correlation) -> np.ndarray:
    """C, (rounds, rounds)."""
    column = np.zeros(correlation.rounds)
    some = np.array(correlation.coefficients[: correlation.rounds]) / 2**correlation.shift
    column[: len(some)] = some
    rounds = range(correlation.rounds)
    return np.array([[column[t - j] if t >= j else 0.0 for j in rounds] for t in rounds])


def patterns(rounds: int, separation: int):
    """Every way to take part."""
    for count in range(1, rounds + 1):
        for chosen in itertools.combinations(range(rounds), count):
            if all(b - a >= separation for a, b in itertools.pairwise(chosen)):
                yield list(chosen)


@pytest.mark.parametrize("rounds", [2, 3, 5, 8, 9])
@pytest.mark.parametrize("separation", [2, 3, 4])
def test_no_way_to_take_part_moves_more_than_the_stated_sensitivity(rounds, separation):
    correlation = blt_for(rounds, separation)
    for prefix in range(1, rounds + 1):
        c = matrix(correlation)[:prefix, :prefix]
        gram = np.abs(c.T @ c)
        # Parts of length 1 in any directions: at most the sum of all products, whatever the angles.
        most = max(math.sqrt(gram[np.ix_(chosen, chosen)].sum()) for chosen in patterns(prefix, separation))
        assert correlation.sensitivity(prefix) == pytest.approx(most, rel=1e-12)


@pytest.mark.parametrize(
    ("rounds", "separation", "expected"), [(20, 5, 1.6), (100, 5, 2.0), (100, 10, 2.4), (20, 4, 1.6), (1000, 20, 3.9)]
)
def test_the_gain_over_independent_noise_is_that_of_dense_arithmetic(rounds, separation, expected):
    correlation = blt_for(rounds, separation)
    sums = np.tril(np.ones((rounds, rounds)))
    inverse = np.linalg.inv(matrix(correlation))
    errors = np.sqrt((sums @ inverse) ** 2 @ np.ones(rounds))
    plain = math.sqrt((rounds + 1) / 2) * math.sqrt(math.ceil(rounds / separation))
    gain = plain / (np.sqrt(np.mean(errors**2)) * correlation.sensitivity(rounds))
    assert correlation.gain == pytest.approx(gain, rel=1e-9)
    assert round(gain, 1) == expected


def test_independent_noise_gains_nothing_and_costs_by_how_often_a_client_takes_part():
    assert independent(100, 5).gain == pytest.approx(1)
    assert independent(100, 5).sensitivity(100) == pytest.approx(math.sqrt(20))
    assert independent(100, 1).sensitivity(7) == pytest.approx(math.sqrt(7))
    with pytest.raises(ConfigError, match=r"the gain is 1\.00: expected gaussian"):
        blt_for(100, 1)


def test_the_coefficients_are_found_again():
    # A run that goes on elsewhere needs the same: a change of the search needs a new name.
    assert blt_for(20, 5).coefficients == (16, 9, 7, 5, 5)
    assert blt_for(100, 10).coefficients == (16, 9, 8, 7, 6, 6, 5, 5, 5, 4)


@pytest.mark.parametrize("correlation", [blt_for(9, 4), independent(9, 3)], ids=["blt", "independent"])
def test_what_is_released_follows_from_the_exact_mechanism_s_result_alone(correlation):
    """In whole numbers, bit for bit: from y = C x + z everybody could make the same without x."""
    generator = np.random.default_rng(0)
    rounds, size, shift = correlation.rounds, 50, correlation.shift
    x = generator.integers(-3000, 3000, (rounds, size))
    z = np.rint(generator.normal(scale=20_000, size=(rounds, size))).astype(np.int64)
    released = [(x[t] << shift) + correlation.noise(list(z[: t + 1])) for t in range(rounds)]
    m, half = correlation.coefficients, (1 << shift) >> 1
    made: list[np.ndarray] = []
    for t in range(rounds):
        reach = range(1, min(t, len(m) - 1) + 1)
        y = (x[t] << shift) + sum(m[j] * x[t - j] for j in reach) + z[t]
        made.append(y - ((sum(m[j] * made[t - j] for j in reach) + half) >> shift))
    np.testing.assert_array_equal(made, released)


@pytest.mark.parametrize("case", [each for each in ORACLE if each["rounds"] == 1], ids=str)
def test_epsilon_is_dp_accounting_s_of_one_gaussian_mechanism_with_this_sensitivity(case):
    correlation = blt_for(20, 5)
    multiplier = case["multiplier"] * correlation.sensitivity(20)
    privacy = ClientPrivacy(multiplier, case["delta"], None, 10, 1.0, 0.5, 1.0, correlation)
    assert privacy.epsilon_after(20) == pytest.approx(case["epsilon"], rel=1e-7)
    by_round = [privacy.epsilon_after(number) for number in range(21)]
    assert by_round == sorted(by_round)
    assert by_round[0] == 0
    assert privacy.most_charges == 20
    budget = multiplier_for(case["epsilon"], case["delta"], 20, correlation)
    assert budget == pytest.approx(multiplier, rel=1e-5)


def test_the_noise_of_rounds_is_correlated_as_stated():
    correlation = blt_for(6, 3)
    privacy = ClientPrivacy(2.0, 1e-5, None, 10, 0.25, 0.5, 1.0, correlation)
    keys = [bytes([number]) * 32 for number in range(6)]
    size = 30_000
    noise = []
    for number, key in enumerate(keys):
        mean = PrivateMean(privacy, size=size, clip_norm=0.25, key=key, earlier=keys[:number])
        noise.append(mean.finish().mean.astype(np.float64))
    inverse = np.linalg.inv(matrix(correlation))
    expected = (2.0 * 0.25 / 10) ** 2 * inverse @ inverse.T
    np.testing.assert_allclose(np.cov(noise), expected, atol=6 * expected.max() / math.sqrt(size))
    last = np.sum(noise, axis=0).std()
    assert last < 0.8 * math.sqrt(6) * 2.0 * 0.25 / 10
