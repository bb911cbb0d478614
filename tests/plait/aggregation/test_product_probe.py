import numpy as np

from plait.aggregation.low_rank import LowRank
from plait.aggregation.product_probe import ProductProbe


def test_the_estimate_is_unbiased_and_near():
    generator = np.random.default_rng(0)
    estimates, exact = [], np.zeros((20, 15))
    factors = [
        (generator.normal(size=(20, 2)).astype(np.float32), generator.normal(size=(2, 15)).astype(np.float32))
        for _ in range(10)
    ]
    for b, a in factors:
        exact += 0.5 * b.astype(float) @ a
    result = LowRank(generator.normal(size=(20, 3)), generator.normal(size=(3, 15)))
    square = np.linalg.norm(exact / 4.0 - result.b @ result.a) ** 2
    for _ in range(200):
        probe = ProductProbe(20, 15, generator=generator)
        for b, a in factors:
            probe.add(b, a, 0.5)
        estimates.append(probe.squared_distance(result, divisor=4.0))
    deviation = np.sqrt(2 / 16) * square
    assert abs(np.mean(estimates) - square) < 4 * deviation / np.sqrt(200)
    assert np.std(estimates) <= 1.2 * deviation


def test_no_distance_from_itself():
    generator = np.random.default_rng(0)
    b, a = np.ones((4, 1), np.float32), np.ones((1, 3), np.float32)
    probe = ProductProbe(4, 3, generator=generator)
    probe.add(b, a, 2.0)
    assert probe.squared_distance(LowRank(b.astype(float), a.astype(float)), divisor=2.0) == 0
