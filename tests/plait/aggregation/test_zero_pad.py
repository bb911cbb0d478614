import numpy as np

from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.zero_pad import ZEROPAD


def test_with_one_rank_it_is_fedavg(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDAVG, context, generator, weights=[1, 2, 5])
    np.testing.assert_allclose(
        lab.run(ZEROPAD, context, cohort).step.flat, lab.run(FEDAVG, context, cohort).step.flat, atol=1e-6
    )


def test_a_slice_that_one_of_two_clients_has_is_halved(lab):
    generator = np.random.default_rng(0)
    server = lab.geometry({"q": (7, 5)}, rank=2, alpha=2.0)
    context = lab.context(server, generator)
    geometries = [server, lab.geometry({"q": (7, 5)}, rank=1, alpha=1.0)]
    cohort = lab.contributions(ZEROPAD, context, generator, weights=[1, 1], geometries=geometries, size=0.0)
    landed = lab.landed(context, lab.run(ZEROPAD, context, cohort))
    (pair,) = server.pairs
    np.testing.assert_allclose(pair.a_of(landed)[1], pair.a_of(context.master.flat)[1] / 2, atol=1e-6)
    np.testing.assert_allclose(pair.a_of(landed)[0], pair.a_of(context.master.flat)[0], atol=1e-6)
