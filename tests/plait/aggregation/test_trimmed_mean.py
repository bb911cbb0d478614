import numpy as np
import pytest

from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.trimmed_mean import TRIMMED_MEAN


@pytest.mark.parametrize(
    ("clients", "share", "cut"), [(1, 0.2, 0), (2, 0.2, 0), (3, 0.2, 1), (10, 0.2, 2), (9, 0.45, 4), (5, 0.0, 0)]
)
def test_the_extremes_of_each_element_are_left_out(lab, clients, share, cut):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDAVG, context, generator, weights=range(1, clients + 1))
    values = np.sort([c.delta.flat.astype(float) for c in cohort], axis=0)[cut : clients - cut]
    outcome = lab.run(TRIMMED_MEAN.with_options({"share": str(share)}), context, cohort)
    np.testing.assert_allclose(outcome.step.flat, values.mean(axis=0), rtol=1e-6, atol=1e-7)
    assert outcome.figures["trimmed_clients"] == 2 * cut


def test_one_liar_of_five_is_left_out(lab, outlier):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    honest = lab.contributions(FEDAVG, context, generator, weights=[1, 1, 1, 1])
    step = lab.run(TRIMMED_MEAN, context, [*honest, outlier(honest[0])]).step.flat
    assert np.abs(step).max() <= max(np.abs(c.delta.flat).max() for c in honest)
