"""What scores say of membership: whether those of data that were trained on differ from those of data that were not.

Higher scores are taken as a sign of membership. The area under the ROC curve is the probability that a member has a
higher score than another, ties counting half, with the interval of DeLong, DeLong and Clarke-Pearson (Biometrics 44,
1988). An attack that is right about few, but certain of them, shows in the true-positive rate at a low false-positive
rate (Carlini et al., arXiv 2112.03570). Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOW_FPR = 0.01
"""At which true positives are counted."""

_95 = 1.959964


@dataclass(frozen=True)
class Attack:
    """How well one score tells members from others.

    Attributes:
        auc: 0.5 is chance.
        margin: of its 95 % interval.
        tpr: part of the members that are recognised while at most 1 % of the others are taken for members; the
            threshold is set on these others.
    """

    name: str
    auc: float
    margin: float
    tpr: float

    @classmethod
    def of(cls, name: str, members: Sequence[float], others: Sequence[float]) -> Attack:
        """The attack with these scores.

        Args:
            members: at least one, finite.
        """
        inside, outside = np.asarray(members, np.float64), np.asarray(others, np.float64)
        # How far up each score stands among those of the other kind.
        above, below = _standing(inside, outside), 1 - _standing(outside, inside)
        variance = sum(float(part.var(ddof=1)) / part.size for part in (above, below) if part.size > 1)
        allowed = math.floor(LOW_FPR * outside.size)
        threshold = np.sort(outside)[::-1][allowed] if allowed < outside.size else -math.inf
        return cls(name, float(above.mean()), _95 * math.sqrt(variance), float((inside > threshold).mean()))


def exposure(planted: float, others: Sequence[float]) -> float:
    """Exposure of a planted canary, in bits (Carlini et al., arXiv 1802.08232, definition 5).

    Args:
        others: losses of candidates from the same distribution that were not planted.

    Returns:
        The logarithm of the number of candidates, less that of the canary's rank by loss; 1 is expected by chance.
    """
    rank = 1 + int((np.asarray(others) < planted).sum())
    return math.log2((len(others) + 1) / rank)


def _standing(scores: NDArray[np.float64], among: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each score, the part of `among` that is lower, ties counting half."""
    ordered = np.sort(among)
    low, high = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return (low + high) / (2 * among.size)
