from __future__ import annotations

import numpy as np

from plait.simulation.clusters import k_means


def test_clusters_that_lie_apart_are_found() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(8), 20)
    vectors = (10.0 * group[:, None] + rng.normal(scale=0.1, size=(160, 3))).astype(np.float32)
    for seed in range(5):
        cluster = k_means(vectors, 8, np.random.default_rng(seed))
        # One to one: as many pairs as groups, and as many clusters.
        assert len(set(zip(group, cluster, strict=True))) == len(set(cluster)) == 8


def test_each_vector_is_nearest_to_the_mean_of_its_own_cluster() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    cluster = k_means(vectors, 5, np.random.default_rng(1))
    means = np.stack([vectors[cluster == k].mean(axis=0) for k in range(5)])
    distance = np.linalg.norm(vectors[:, None] - means, axis=2)
    assert list(distance.argmin(axis=1)) == list(cluster)


def test_equal_vectors_do_not_break_the_choice_of_centres() -> None:
    assert len(k_means(np.ones((4, 2), np.float32), 3, np.random.default_rng(0))) == 4
