import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation.flora import FLORA

RANKS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([1.0, 4.0, 16.0]), st.integers(1, 999)), min_size=1, max_size=6
)


@settings(max_examples=30)
@given(clients=RANKS, seed=st.integers(0, 2**32 - 1))
def test_base_and_adapter_together_are_the_exact_mean_for_any_ranks_and_scales(lab, clients, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(rank=3), generator)
    cohort = lab.contributions(
        FLORA,
        context,
        generator,
        weights=[weight for _, _, weight in clients],
        geometries=[lab.geometry(rank=rank, alpha=alpha) for rank, alpha, _ in clients],
    )
    outcome = lab.run(FLORA, context, cohort)
    exact = lab.exact_mean(cohort)
    assert lab.distance(lab.result(context, outcome), exact) <= 1e-6 * lab.size(exact)


def test_the_adapter_starts_anew(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    outcome = lab.run(FLORA, context, lab.contributions(FLORA, context, generator, weights=[1, 2]))
    for pair in context.geometry.pairs:
        landed = lab.landed(context, outcome)
        np.testing.assert_allclose(pair.a_of(landed), pair.a_of(context.initial.flat), atol=1e-6)
        assert not pair.b_of(landed).any()


def test_an_initial_adapter_that_is_not_zero_is_taken_off_the_base(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    context = dataclasses.replace(context, initial=lab.state(context.geometry, generator))
    cohort = lab.contributions(FLORA, context, generator, weights=[1, 2])
    exact = lab.exact_mean(cohort)
    outcome = lab.run(FLORA, context, cohort)
    assert lab.distance(lab.result(context, outcome), exact) <= 1e-6 * lab.size(exact)


def test_bases_of_many_rounds_add_up_to_the_sum_of_all_rounds_in_bounded_columns(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    context = dataclasses.replace(context, master=context.initial)
    total, expected = None, {pair.module: 0.0 for pair in context.geometry.pairs}
    for _ in range(5):
        cohort = lab.contributions(FLORA, context, generator, weights=[1, 2, 3])
        base = lab.run(FLORA, context, cohort).base
        total = base if total is None else total.plus(base)
        expected = {module: expected[module] + product for module, product in lab.exact_mean(cohort).items()}
    for module, factors in total.factors.items():
        pair = context.geometry.by_module[module]
        assert factors.columns <= min(pair.d_in, pair.d_out)
        np.testing.assert_allclose(factors.b @ factors.a, expected[module], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("clients", [1, 3, 100])
def test_the_stack_travels_down_until_it_is_as_wide_as_the_weight(lab, clients):
    geometry = lab.geometry({"q": (7, 5)}, others=False)
    assert FLORA.traffic(geometry, clients).downlink == min(2 * clients, 5) * (7 + 5)
