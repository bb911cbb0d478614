"""The adaptive clip norm: it follows a quantile of the updates' norms, from a noised count.

Andrew et al., "Differentially Private Learning with Adaptive Clipping", arXiv 1905.03871, algorithm 1: every client
of a round counts as +1/2 if its update is within the clip norm and as -1/2 if not, noise is added to the sum, and

    C <- C exp(-rate (b - quantile)),   b the noised fraction of clients within C.

The count is a second Gaussian mechanism on the same clients and is paid for: a client changes it by 1/2. Here counts
are doubled, so that they are whole numbers and a client changes them by 1. Knows no update.
"""

from __future__ import annotations

import math

RATE = 0.2
"""Of the paper's experiments."""

SHARE = 0.1
"""Largest part of a round's 1/z^2 that the count may take."""


def count_multiplier(noise_multiplier: float, clients: int) -> float:
    """Noise of the doubled count: the paper's n/20 on the sum of halves, and more where that costs over `SHARE`."""
    return max(clients / 10, noise_multiplier / math.sqrt(SHARE))


def update_multiplier(noise_multiplier: float, count: float) -> float:
    """Noise of the updates, so that both mechanisms together cost 1/z^2 (the paper's theorem 1)."""
    return 1 / math.sqrt(noise_multiplier**-2 - count**-2)


def next_clip(clip_norm: float, fraction: float, quantile: float) -> float:
    """The clip norm of the next round.

    Args:
        fraction: of clients within it, noised; may be below 0 or above 1.
    """
    return clip_norm * math.exp(-RATE * (min(max(fraction, -1.0), 2.0) - quantile))
