import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.florist import FLORIST


@settings(max_examples=30)
@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=5),
    energy=st.floats(0.3, 0.999),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_fewest_singular_values_that_hold_the_energy_are_kept(lab, weights, energy, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(rank=4), generator)
    rule = FLORIST.with_options({"energy": str(energy)})
    cohort = lab.contributions(rule, context, generator, weights=weights)
    outcome = lab.run(rule, context, cohort)
    exact, kept = lab.exact_mean(cohort), 0
    for module, product in exact.items():
        squares = np.linalg.svd(product, compute_uv=False) ** 2
        shares = np.cumsum(squares) / squares.sum()
        rank = min(4, 1 + int(np.count_nonzero(shares < energy - 1e-12)))
        kept += rank
        expected = np.linalg.norm(product - lab.best(product, rank))
        error = np.linalg.norm(lab.result(context, outcome)[module] - product)
        assert abs(error - expected) <= 2e-6 * np.linalg.norm(product)
    assert outcome.figures["kept_columns"] == kept
