import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.flexlora import FLEXLORA
from plait.aggregation.raflora import RAFLORA
from plait.errors import PeerError

CLIENTS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([1.0, 4.0, 16.0]), st.integers(1, 999)), min_size=1, max_size=6
)


@pytest.mark.slow
@settings(max_examples=30)
@given(clients=CLIENTS, seed=st.integers(0, 2**32 - 1))
def test_each_slice_of_the_products_is_averaged_over_its_owners(lab, clients, seed):
    generator = np.random.default_rng(seed)
    geometries = [lab.geometry(rank=rank, alpha=alpha) for rank, alpha, _ in clients]
    context = lab.context(lab.geometry(rank=3), generator, cohort=tuple(geometries))
    cohort = lab.contributions(
        RAFLORA, context, generator, weights=[weight for _, _, weight in clients], geometries=geometries
    )
    outcome = lab.run(RAFLORA, context, cohort)
    for server in context.geometry.pairs:
        mean = np.zeros((server.d_out, server.d_in))
        for i in range(4):
            owners = [c for c in cohort if c.geometry.by_module[server.module].rank > i]
            for c in owners:
                own = c.geometry.by_module[server.module]
                b, a = own.b_of(lab.trained(c))[:, i], own.a_of(lab.trained(c))[i]
                mean += c.weight / sum(o.weight for o in owners) * own.scale * np.outer(b, a)
        result = lab.result(context, outcome)[server.module]
        expected = np.linalg.norm(mean - lab.best(mean, 3))
        assert abs(np.linalg.norm(mean - result) - expected) <= 2e-6 * np.linalg.norm(mean)


def test_with_one_rank_it_is_flexlora(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(RAFLORA, context, generator, weights=[1, 2, 5])
    mine, theirs = (lab.result(context, lab.run(rule, context, cohort)) for rule in (RAFLORA, FLEXLORA))
    for module, product in mine.items():
        np.testing.assert_allclose(product, theirs[module], atol=1e-5)


def test_a_rank_that_was_not_announced_is_refused(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(rank=2), generator)
    cohort = lab.contributions(RAFLORA, context, generator, weights=[1], geometries=[lab.geometry(rank=1)])
    with pytest.raises(PeerError, match="is 1, expected one of 2"):
        lab.run(RAFLORA, context, cohort)
