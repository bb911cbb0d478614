import numpy as np

from simulations.bench.deltas import samples


def test_samples_are_of_unit_scale_and_come_back_with_their_seed():
    first, second = samples(1 << 14, seed=3)
    assert (first.name, second.name) == ("Gaussian", "Laplacian")
    gaussian, laplacian = first.delta, second.delta
    assert np.std(gaussian.flat) == np.float32(1).item() or abs(np.std(gaussian.flat) - 1) < 0.03
    # Kurtosis: 3 of a Gaussian, 6 of a Laplacian.
    kurtosis = [np.mean(d.flat**4) / np.mean(d.flat**2) ** 2 for d in (gaussian, laplacian)]
    assert abs(kurtosis[0] - 3) < 0.3
    assert abs(kurtosis[1] - 6) < 1.2
    again = next(samples(1 << 14, seed=3)).delta
    np.testing.assert_array_equal(again.flat, gaussian.flat)
