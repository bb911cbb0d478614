import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.rbla import RBLA

CLIENTS = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from([1.0, 4.0, 16.0]), st.integers(1, 999)), min_size=1, max_size=6
)


@settings(max_examples=30)
@given(clients=CLIENTS, seed=st.integers(0, 2**32 - 1))
def test_each_slice_is_the_mean_over_its_owners_and_else_the_masters(lab, clients, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(rank=3), generator)
    cohort = lab.contributions(
        RBLA,
        context,
        generator,
        weights=[weight for _, _, weight in clients],
        geometries=[lab.geometry(rank=rank, alpha=alpha) for rank, alpha, _ in clients],
    )
    landed = lab.landed(context, lab.run(RBLA, context, cohort))
    for server in context.geometry.pairs:
        for i in range(3):
            owners = [c for c in cohort if c.geometry.by_module[server.module].rank > i]
            own = [c.geometry.by_module[server.module] for c in owners]
            roots = [np.sqrt(pair.scale / server.scale) for pair in own]
            row, column = server.a_of(context.master.flat)[i], server.b_of(context.master.flat)[:, i]
            if owners:
                weights = [c.weight for c in owners]
                rows = [f * pair.a_of(lab.trained(c))[i] for f, pair, c in zip(roots, own, owners, strict=True)]
                columns = [f * pair.b_of(lab.trained(c))[:, i] for f, pair, c in zip(roots, own, owners, strict=True)]
                row, column = (np.average(values, axis=0, weights=weights) for values in (rows, columns))
            np.testing.assert_allclose(server.a_of(landed)[i], row, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(server.b_of(landed)[:, i], column, rtol=1e-5, atol=1e-6)
