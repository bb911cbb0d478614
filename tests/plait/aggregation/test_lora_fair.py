import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.lora_fair import LORA_FAIR


@settings(max_examples=30)
@given(weights=st.lists(st.integers(1, 1000), min_size=1, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_b_solves_the_ridge_regression_of_the_exact_mean_on_a(lab, weights, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(), generator)
    rule = LORA_FAIR.with_options({"strength": "0.05"})
    cohort = lab.contributions(rule, context, generator, weights=weights)
    landed = lab.landed(context, lab.run(rule, context, cohort))
    mean = sum(p * lab.trained(c) for p, c in zip(lab.shares(cohort), cohort, strict=True))
    for pair in context.geometry.pairs:
        b, sa = pair.b_of(mean), pair.scale * pair.a_of(mean)
        mu = 0.05 * np.linalg.norm(sa) ** 2 / pair.rank
        # The minimum over D of |M - (b + D) sa|^2 + mu |D|^2 as one least squares problem in D^T.
        left = np.vstack([sa.T, np.sqrt(mu) * np.eye(pair.rank)])
        right = np.vstack([(lab.exact_mean(cohort)[pair.module] - b @ sa).T, np.zeros((pair.rank, pair.d_out))])
        correction = np.linalg.lstsq(left, right, rcond=None)[0].T
        np.testing.assert_allclose(pair.b_of(landed), b + correction, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(pair.a_of(landed), pair.a_of(mean), rtol=1e-5, atol=1e-6)


def test_the_correction_brings_the_product_nearer_to_the_exact_mean(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDAVG, context, generator, weights=[1, 2, 3])
    exact = lab.exact_mean(cohort)
    errors = [lab.distance(lab.result(context, lab.run(rule, context, cohort)), exact) for rule in (LORA_FAIR, FEDAVG)]
    assert errors[0] < errors[1]


def test_an_a_of_zero_needs_no_correction(lab):
    generator = np.random.default_rng(0)
    geometry = lab.geometry()
    zero = np.zeros(geometry.layout.size, np.float32)
    context = lab.context(geometry, generator, master=type(lab.state(geometry, generator))(geometry.layout, zero))
    outcome = lab.run(LORA_FAIR, context, lab.contributions(LORA_FAIR, context, generator, weights=[1], size=0.0))
    assert not outcome.step.flat.any()
