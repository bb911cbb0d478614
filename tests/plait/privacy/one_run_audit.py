"""How much privacy a mechanism certainly lacks, from one run with canaries: a lower bound of epsilon.

Steinke, Nasr and Jagielski, "Privacy Auditing with One (1) Training Run", arXiv 2305.08846. Each canary client takes
part or not, by a fair coin. Whoever sees the results guesses the coins of the canaries that he is surest of. If the
mechanism is (epsilon, 0)-private, the number of right guesses among r is no larger than Binomial(r, e^epsilon / (1 +
e^epsilon)) (theorem 2.1 there); with delta = 1e-5 and so few guesses its correction does not change the first two
digits. Not part of plait.
"""

import math

import numpy as np


def lower_bound(right: int, guesses: int, *, failure: float = 0.05) -> float:
    """The largest epsilon that `right` of `guesses` refute, with this probability of failure."""
    low, high = 0.0, 50.0
    for _ in range(100):
        middle = (low + high) / 2
        if _upper_tail(right, guesses, 1 / (1 + math.exp(-middle))) <= failure:
            low = middle
        else:
            high = middle
    return low


def right_guesses(scores: np.ndarray, took_part: np.ndarray, guesses: int) -> int:
    """Guess that the highest scores took part and the lowest did not."""
    order = np.argsort(scores)
    half = guesses // 2
    return int((~took_part[order[:half]]).sum() + took_part[order[-half:]].sum())


def _upper_tail(right: int, guesses: int, p: float) -> float:
    """P(Binomial(guesses, p) >= right)."""
    logs = [
        math.lgamma(guesses + 1) - math.lgamma(k + 1) - math.lgamma(guesses - k + 1)
        + k * math.log(p) + (guesses - k) * math.log1p(-p)
        for k in range(right, guesses + 1)
    ]  # fmt: skip
    return math.fsum(map(math.exp, logs))
