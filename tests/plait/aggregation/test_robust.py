"""Rules that withstand bad clients."""

import numpy as np
import pytest

from plait.aggregation.means import FEDAVG
from plait.aggregation.robust import GEOMETRIC_MEDIAN, MEDIAN, TRIMMED_MEAN


@pytest.mark.parametrize("clients", [1, 2, 5])
def test_each_element_is_the_median_of_the_clients(lab, clients):
    context, cohort = lab.round_of(FEDAVG, weights=[1, 100, 3, 4, 5][:clients])
    expected = np.median([c.delta.flat for c in cohort], axis=0)
    np.testing.assert_allclose(lab.run(MEDIAN, context, cohort).step.flat, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("clients", "share", "cut"), [(1, 0.2, 0), (2, 0.2, 0), (3, 0.2, 1), (10, 0.2, 2), (9, 0.45, 4), (5, 0.0, 0)]
)
def test_the_extremes_of_each_element_are_left_out(lab, clients, share, cut):
    context, cohort = lab.round_of(FEDAVG, weights=range(1, clients + 1))
    values = np.sort([c.delta.flat.astype(float) for c in cohort], axis=0)[cut : clients - cut]
    outcome = lab.run(TRIMMED_MEAN.with_options({"share": str(share)}), context, cohort)
    np.testing.assert_allclose(outcome.step.flat, values.mean(axis=0), rtol=1e-6, atol=1e-7)
    assert outcome.figures["trimmed_clients"] == 2 * cut


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
    context, cohort = lab.round_of(FEDAVG, weights=[1, 1, 1])
    flat = cohort[0].delta.flat
    cohort = [lab.scaled(cohort[0], factor) for factor in (0.0, 1.0, 5.0)]
    np.testing.assert_allclose(lab.run(GEOMETRIC_MEDIAN, context, cohort).step.flat, flat, atol=1e-4)


def test_clients_that_agree_are_taken_at_their_word(lab):
    context, (one,) = lab.round_of(FEDAVG, weights=[1])
    np.testing.assert_allclose(lab.run(GEOMETRIC_MEDIAN, context, [one, one, one]).step.flat, one.delta.flat, rtol=1e-6)
