import numpy as np

from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.geometric_median import GEOMETRIC_MEDIAN


def total_distance(point, cohort):
    return sum(c.weight * np.linalg.norm(c.delta.flat.astype(float) - point) for c in cohort)


def test_no_point_nearby_has_a_smaller_sum_of_distances(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDAVG, context, generator, weights=[1, 2, 2, 1, 3])
    step = lab.run(GEOMETRIC_MEDIAN, context, cohort).step.flat.astype(float)
    least = total_distance(step, cohort)
    assert least < total_distance(lab.mean_delta(cohort), cohort)
    for size in (1e-3, 1e-2, 1e-1):
        for _ in range(20):
            away = step + size * generator.normal(size=len(step))
            assert least <= total_distance(away, cohort) * (1 + 1e-6)


def test_it_is_the_middle_of_three_on_a_line(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDAVG, context, generator, weights=[1, 1, 1])
    flat = cohort[0].delta.flat
    cohort = [lab.scaled(cohort[0], factor) for factor in (0.0, 1.0, 5.0)]
    np.testing.assert_allclose(lab.run(GEOMETRIC_MEDIAN, context, cohort).step.flat, flat, atol=1e-4)


def test_a_liar_as_large_as_float32_allows_moves_it_little(lab, outlier):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    honest = lab.contributions(FEDAVG, context, generator, weights=[1, 1, 1])
    step = lab.run(GEOMETRIC_MEDIAN, context, [*honest, outlier(honest[0])]).step.flat
    # Within about the spread of the honest ones around their mean.
    spread = max(np.linalg.norm(c.delta.flat - lab.mean_delta(honest)) for c in honest)
    assert np.linalg.norm(step - lab.mean_delta(honest)) <= 2 * spread


def test_clients_that_agree_are_taken_at_their_word(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    (one,) = lab.contributions(FEDAVG, context, generator, weights=[1])
    np.testing.assert_allclose(lab.run(GEOMETRIC_MEDIAN, context, [one, one, one]).step.flat, one.delta.flat, rtol=1e-6)
