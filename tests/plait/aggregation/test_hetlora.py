import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.hetlora import HETLORA
from plait.aggregation.zero_pad import ZEROPAD

CLIENTS = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from([1.0, 4.0, 16.0]), st.integers(1, 999)), min_size=1, max_size=6
)


def padded(pair, server, flat):
    """B and A at the server's scale and rank."""
    root = np.sqrt(pair.scale / server.scale)
    b, a = np.zeros((server.d_out, server.rank)), np.zeros((server.rank, server.d_in))
    b[:, : pair.rank], a[: pair.rank] = root * pair.b_of(flat), root * pair.a_of(flat)
    return b, a


@settings(max_examples=30)
@given(clients=CLIENTS, by_norm=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_the_result_is_the_mean_of_the_padded_factors(lab, clients, by_norm, seed):
    generator = np.random.default_rng(seed)
    rule = HETLORA if by_norm else ZEROPAD
    context = lab.context(lab.geometry(rank=3), generator)
    cohort = lab.contributions(
        rule,
        context,
        generator,
        weights=[weight for _, _, weight in clients],
        geometries=[lab.geometry(rank=rank, alpha=alpha) for rank, alpha, _ in clients],
    )
    landed = lab.landed(context, lab.run(rule, context, cohort))
    for server in context.geometry.pairs:
        weights, factors = [], []
        for c in cohort:
            own = c.geometry.by_module[server.module]
            norm = np.linalg.norm(lab.dense(own, lab.trained(c))) if by_norm else 1.0
            weights.append(c.weight * norm)
            factors.append(padded(own, server, lab.trained(c)))
        for of, index in ((server.b_of, 0), (server.a_of, 1)):
            expected = np.average([pair[index] for pair in factors], axis=0, weights=weights)
            np.testing.assert_allclose(of(landed), expected, rtol=1e-5, atol=1e-6)


def test_a_module_without_any_product_stays_as_it_is(lab):
    generator = np.random.default_rng(0)
    geometry = lab.geometry()
    context = lab.context(geometry, generator, master=lab.fresh(geometry, generator))
    cohort = lab.contributions(HETLORA, context, generator, weights=[1, 2], size=0.0)
    assert not lab.run(HETLORA, context, cohort).step.flat.any()
