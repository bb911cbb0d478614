import numpy as np

from plait.aggregation.fedsa import FEDSA
from plait.aggregation.geometry import Side


def test_a_and_the_rest_are_averaged_and_b_stays(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDSA, context, generator, weights=[1, 2, 5])
    step, mean = lab.run(FEDSA, context, cohort).step, lab.mean_delta(cohort)
    for pair in context.geometry.pairs:
        np.testing.assert_allclose(pair.a_of(step.flat), pair.a_of(mean), rtol=1e-6)
        assert not pair.b_of(step.flat).any()
    np.testing.assert_allclose(context.geometry.others_of(step.flat), context.geometry.others_of(mean), rtol=1e-6)


def test_b_never_travels(lab):
    geometry = lab.geometry(others=False)
    assert FEDSA.personal is Side.B
    assert FEDSA.traffic(geometry).uplink == geometry.side_size(Side.A)
