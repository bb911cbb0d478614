import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.flexlora import FLEXLORA

CLIENTS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([1.0, 4.0, 16.0]), st.integers(1, 999)), min_size=1, max_size=6
)


@settings(max_examples=30)
@given(clients=CLIENTS, rank=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_the_result_is_the_truncated_decomposition_of_the_dense_mean(lab, clients, rank, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(rank=rank), generator)
    cohort = lab.contributions(
        FLEXLORA,
        context,
        generator,
        weights=[weight for _, _, weight in clients],
        geometries=[lab.geometry(rank=r, alpha=alpha) for r, alpha, _ in clients],
    )
    outcome = lab.run(FLEXLORA, context, cohort)
    exact = lab.exact_mean(cohort)
    best = {module: lab.best(product, rank) for module, product in exact.items()}
    # Where two singular values are equal there are two best products, of the same distance.
    assert abs(lab.distance(lab.result(context, outcome), exact) - lab.distance(best, exact)) <= 1e-6 * lab.size(exact)
    np.testing.assert_allclose(
        outcome.figures["truncation"], lab.distance(best, exact), rtol=1e-6, atol=1e-6 * lab.size(exact)
    )
    others = context.geometry.others_of(outcome.step.flat)
    expected = sum(p * c.geometry.others_of(c.delta.flat) for p, c in zip(lab.shares(cohort), cohort, strict=True))
    np.testing.assert_allclose(others, expected, atol=1e-6)


def test_a_small_change_of_the_products_is_a_small_change_of_the_factors(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FLEXLORA, context, generator, weights=[1, 2], size=1e-4)
    step = lab.run(FLEXLORA, context, cohort).step
    assert np.linalg.norm(step.flat) < 0.01 * np.linalg.norm(context.master.flat)


def test_no_matrix_of_the_weights_size_is_formed(lab):
    side = 3000
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry({"q": (side, side)}, rank=2), generator)
    cohort = lab.contributions(FLEXLORA, context, generator, weights=[1, 2, 3])
    tracemalloc.start()
    lab.run(FLEXLORA, context, cohort)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < side * side * 8 / 10
