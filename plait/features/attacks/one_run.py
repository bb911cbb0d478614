"""How much privacy a mechanism certainly lacks, from one run with canaries: a lower bound of epsilon.

Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", arXiv 2305.08846. Each canary takes part or
not, by a fair coin. An attacker who sees the results guesses the coins of the surest canaries. Under (epsilon,
delta)-differential privacy the number of right guesses among r of m canaries is at least v with probability at most

    beta + 2 m delta alpha,   beta = P(B >= v),   alpha = max over i of P(v > B >= v - i) / i,

B ~ Binomial(r, e^epsilon / (1 + e^epsilon)) (theorem 5.2 and appendix D there). So a rarer result refutes epsilon.
Knows no mechanism.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FAILURE = 0.05
"""Probability with which a bound may be wrong."""

_STEPS = 60
_LARGEST = 50.0


def lower_bound(right: int, guesses: int, *, canaries: int, delta: float, failure: float = FAILURE) -> float:
    """The largest epsilon that this many right guesses refute.

    Args:
        guesses: at most `canaries`; fixed before the results are seen.
    """
    low, high = 0.0, _LARGEST
    if _probability(right, guesses, 0.0, canaries=canaries, delta=delta) > failure:
        return 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _probability(right, guesses, middle, canaries=canaries, delta=delta) <= failure:
            low = middle
        else:
            high = middle
    return low


def right_guesses(scores: NDArray[np.float64], took_part: NDArray[np.bool_], guesses: int) -> int:
    """How many guesses are right if the highest scores are said to have taken part and the lowest not.

    Args:
        scores: (canaries,)
        took_part: (canaries,) the coins.
    """
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    return int((~took_part[order[:half]]).sum() + took_part[order[len(order) - half :]].sum())


def _probability(right: int, guesses: int, epsilon: float, *, canaries: int, delta: float) -> float:
    """The largest probability of this many right guesses under (epsilon, delta)."""
    chance = 1 / (1 + math.exp(-epsilon))
    terms = _terms(guesses, chance)
    beta = math.fsum(terms[right:])
    if not delta:
        return beta
    below = np.cumsum(terms[:right][::-1])
    alpha = float((below / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, beta + 2 * canaries * delta * alpha)


def _terms(guesses: int, chance: float) -> NDArray[np.float64]:
    """P(Binomial(guesses, chance) = k) for all k, (guesses + 1,)."""
    if chance >= 1:
        return np.eye(1, guesses + 1, guesses)[0]
    k = np.arange(guesses + 1)
    choose = np.array([math.lgamma(n + 1) for n in range(guesses + 1)])
    logs = choose[-1] - choose - choose[::-1] + k * math.log(chance) + (guesses - k) * math.log1p(-chance)
    return np.exp(logs)
