import numpy as np
import pytest

from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.median import MEDIAN


@pytest.mark.parametrize("clients", [1, 2, 5])
def test_each_element_is_the_median_of_the_clients(lab, clients):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDAVG, context, generator, weights=[1, 100, 3, 4, 5][:clients])
    expected = np.median([c.delta.flat for c in cohort], axis=0)
    np.testing.assert_allclose(lab.run(MEDIAN, context, cohort).step.flat, expected, rtol=1e-6)


def test_a_minority_of_liars_moves_nothing_beyond_the_honest(lab, outlier):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    honest = lab.contributions(FEDAVG, context, generator, weights=[1, 1, 1])
    step = lab.run(MEDIAN, context, [*honest, outlier(honest[0]), outlier(honest[1])]).step.flat
    values = np.array([c.delta.flat for c in honest])
    assert (step >= values.min(axis=0)).all()
    assert (step <= values.max(axis=0)).all()


def test_nothing_has_no_median(lab):
    with pytest.raises(ValueError, match="no update was added"):
        MEDIAN.begin(lab.context(lab.geometry(), np.random.default_rng(0))).finish()
