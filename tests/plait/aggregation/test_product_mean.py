import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.product_mean import PRODUCT_MEAN

CLIENTS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([1.0, 4.0, 16.0]), st.integers(1, 999)), min_size=1, max_size=14
)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    clients=CLIENTS,
    rank=st.integers(1, 4),
    step=st.sampled_from([0.0, 0.01, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_true_error_is_within_the_certified_bounds(lab, clients, rank, step, seed):
    generator = np.random.default_rng(seed)
    rule = PRODUCT_MEAN.with_options({"oversampling": "1"})
    context = lab.context(lab.geometry(rank=rank), generator)
    cohort = lab.contributions(
        rule,
        context,
        generator,
        weights=[weight for _, _, weight in clients],
        geometries=[lab.geometry(rank=r, alpha=alpha) for r, alpha, _ in clients],
        size=step,
    )
    outcome = lab.run(rule, context, cohort)
    exact = lab.exact_mean(cohort)
    error = lab.distance(lab.result(context, outcome), exact)
    # The clients' own adapters are float32, whose rounding is not the rule's.
    rounding = 1e-6 * lab.size(exact)
    least = lab.distance({module: lab.best(product, rank) for module, product in exact.items()}, exact)
    assert error <= outcome.figures["error_bound"] + rounding
    assert error <= least + outcome.figures["excess_bound"] + rounding
    # Left out where the sketch may have lost as much as it holds.
    relative = outcome.figures.get("relative_error_bound", np.inf)
    assert error <= relative * lab.size(exact) + rounding


@pytest.mark.slow
@settings(max_examples=30)
@given(weights=st.lists(st.integers(1, 999), min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_with_room_for_all_second_order_terms_it_is_the_best_product_of_the_dense_mean(lab, weights, seed):
    generator = np.random.default_rng(seed)
    rule = PRODUCT_MEAN.with_options({"oversampling": "4"})
    context = lab.context(lab.geometry(rank=2), generator)
    cohort = lab.contributions(rule, context, generator, weights=weights)
    outcome = lab.run(rule, context, cohort)
    exact = lab.exact_mean(cohort)
    best = {module: lab.best(product, 2) for module, product in exact.items()}
    error = lab.distance(lab.result(context, outcome), exact)
    assert abs(error - lab.distance(best, exact)) <= 1e-6 * lab.size(exact)
    np.testing.assert_allclose(outcome.figures["error_bound"], error, atol=2e-6 * lab.size(exact))


def test_a_small_step_changes_the_factors_little(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(PRODUCT_MEAN, context, generator, weights=[1, 2, 3], size=0.01)
    outcome = lab.run(PRODUCT_MEAN, context, cohort)
    np.testing.assert_allclose(outcome.step.flat, lab.mean_delta(cohort), atol=2e-3)


def test_more_kinds_of_received_adapters_than_there_is_room_for_are_still_within_the_bound(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = []
    for k in range(20):
        other = lab.context(lab.geometry(), generator)
        cohort += lab.contributions(PRODUCT_MEAN, other, generator, weights=[k + 1])
    outcome = lab.run(PRODUCT_MEAN, context, cohort)
    exact = lab.exact_mean(cohort)
    assert lab.distance(lab.result(context, outcome), exact) <= outcome.figures["error_bound"] + 1e-6 * lab.size(exact)


def test_an_untrained_fresh_adapter_stays_as_it_is(lab):
    generator = np.random.default_rng(0)
    geometry = lab.geometry()
    context = lab.context(geometry, generator, master=lab.fresh(geometry, generator))
    cohort = lab.contributions(PRODUCT_MEAN, context, generator, weights=[1, 2], size=0.0)
    outcome = lab.run(PRODUCT_MEAN, context, cohort)
    assert not outcome.step.flat.any()
    assert outcome.figures["error_bound"] == outcome.figures["error_estimate"] == 0


def test_the_estimate_is_near_to_the_true_error(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry({"q": (60, 50)}, rank=2), generator)
    cohort = lab.contributions(PRODUCT_MEAN, context, generator, weights=[1] * 20)
    outcome = lab.run(PRODUCT_MEAN, context, cohort)
    error = lab.distance(lab.result(context, outcome), lab.exact_mean(cohort))
    np.testing.assert_allclose(outcome.figures["error_estimate"], error, rtol=0.25)


@pytest.mark.parametrize("side", [3000])
def test_no_matrix_of_the_weights_size_is_formed(lab, side):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry({"q": (side, side)}, rank=2), generator)
    cohort = lab.contributions(PRODUCT_MEAN, context, generator, weights=[1, 2, 3, 4, 5])
    tracemalloc.start()
    lab.run(PRODUCT_MEAN, context, cohort)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < side * side * 8 / 10
