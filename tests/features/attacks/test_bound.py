import math

import numpy as np
import pytest

from plait.features.attacks.canary import lower_bound, right_guesses


def test_the_bound_of_perfect_guesses_is_that_of_the_paper_s_formula():
    # All of m right: p^m = 0.05, so epsilon = log(p / (1 - p)).
    for m, expected in ((100, 3.5), (1000, 5.8), (10_000, 8.1)):
        p = 0.05 ** (1 / m)
        assert lower_bound(m, m, canaries=m, delta=0.0) == pytest.approx(np.log(p / (1 - p)), rel=1e-6)
        assert lower_bound(m, m, canaries=m, delta=0.0) == pytest.approx(expected, abs=0.06)
    assert lower_bound(500, 1000, canaries=1000, delta=0.0) == 0.0


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Appendix D of arXiv 2305.08846, term by term."""
    q = 1 / (1 + math.exp(-epsilon))
    pmf = [math.comb(guesses, k) * q**k * (1 - q) ** (guesses - k) for k in range(guesses + 1)]
    alpha = total = 0.0
    for i in range(1, right + 1):
        total += pmf[right - i]
        alpha = max(alpha, total / i)
    return min(1.0, sum(pmf[right:]) + alpha * delta * 2 * canaries)


@pytest.mark.parametrize(("guesses", "right", "canaries", "delta"), [
    (100, 95, 1000, 1e-5), (100, 100, 1000, 1e-5), (60, 50, 20_000, 1e-5), (100, 80, 300, 1e-3),
])  # fmt: skip
def test_the_bound_is_where_the_paper_s_p_value_crosses_one_in_twenty(guesses, right, canaries, delta):
    found = lower_bound(right, guesses, canaries=canaries, delta=delta)
    assert (
        p_value(canaries, guesses, right, found - 1e-6, delta)
        <= 0.05
        < p_value(canaries, guesses, right, found + 1e-6, delta)
    )


@pytest.mark.slow
def test_randomised_response_is_not_accused():
    # The worst (epsilon, 0)-private mechanism: the bound may exceed epsilon in one of twenty runs.
    generator, epsilon = np.random.default_rng(5), 1.5
    wrong = 0
    for _ in range(400):
        right = int((generator.random(200) < 1 / (1 + math.exp(-epsilon))).sum())
        wrong += lower_bound(right, 200, canaries=200, delta=0.0) > epsilon
    assert wrong <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_guesses_are_of_the_surest():
    scores = np.array([0.1, 5.0, -3.0, 0.2, 4.0, -9.0])
    took_part = np.array([True, True, False, False, False, False])
    assert right_guesses(scores, took_part, 4) == 3
    assert right_guesses(scores, took_part, 6) == 3
