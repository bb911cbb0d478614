"""k-means, seeded by k-means++ (Arthur and Vassilvitskii, SODA 2007): topics for unlabelled text.

Knows nothing of the origin of the vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MAX_STEPS = 50


def k_means(vectors: NDArray[np.float32], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Assign each vector to one of `count` clusters, by at most 50 steps of Lloyd's algorithm.

    Args:
        vectors: (n, d), n at least `count`.
        count: number of clusters; one may end up empty.

    Returns:
        (n,), from 0 to `count` - 1.
    """
    points = np.asarray(vectors, np.float64)
    centres = points[[generator.integers(len(points))]]  # (k, d), k grows to count
    nearest = ((points - centres[0]) ** 2).sum(axis=1)  # squared distance to the nearest centre
    while len(centres) < count:
        total = nearest.sum()
        chosen = generator.choice(len(points), p=nearest / total if total > 0 else None)
        centres = np.vstack([centres, points[chosen]])
        nearest = np.minimum(nearest, ((points - points[chosen]) ** 2).sum(axis=1))
    cluster = np.full(len(points), -1)
    for _ in range(_MAX_STEPS):
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and |x|^2 does not decide which c is nearest.
        found = ((centres**2).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1)
        if (found == cluster).all():
            break
        cluster = found
        for k in np.unique(cluster):
            centres[k] = points[cluster == k].mean(axis=0)
    return cluster
