from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.adapters import AdapterState
from plait.aggregation.diagnostics import Observer
from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.flexlora import FLEXLORA

CLIENTS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([1.0, 4.0, 16.0]), st.integers(1, 999)), min_size=1, max_size=5
)


def observed(context, cohort, outcome, **settings):
    observer = Observer(context, **settings)
    for contribution in cohort:
        observer.add(contribution)
    return observer.finish(outcome)


@settings(max_examples=30)
@given(clients=CLIENTS, seed=st.integers(0, 2**32 - 1))
def test_all_figures_are_those_of_dense_maths(lab, clients, seed):
    generator = np.random.default_rng(seed)
    geometries = [lab.geometry(rank=rank, alpha=alpha) for rank, alpha, _ in clients]
    context = lab.context(lab.geometry(rank=2), generator, cohort=tuple(geometries))
    cohort = lab.contributions(
        FLEXLORA, context, generator, weights=[weight for _, _, weight in clients], geometries=geometries
    )
    outcome = lab.run(FLEXLORA, context, cohort)
    found = observed(context, cohort, outcome)
    exact = lab.exact_mean(cohort)
    np.testing.assert_allclose(found.exact_norm, lab.size(exact), rtol=1e-5)
    error = lab.distance(lab.result(context, outcome), exact) / lab.size(exact)
    np.testing.assert_allclose(found.error, error, rtol=1e-4, atol=1e-6)
    ranks = []
    for product in exact.values():
        s = np.linalg.svd(product, compute_uv=False)
        s = s[s > 1e-9 * s[0]] / s[s > 1e-9 * s[0]].sum()
        ranks.append(np.exp(-(s * np.log(s)).sum()))
    np.testing.assert_allclose(found.effective_rank, np.mean(ranks), rtol=1e-3)
    for c in cohort:
        change = np.sqrt(
            sum(
                np.linalg.norm(lab.dense(p, lab.trained(c)) - lab.dense(p, c.received.flat)) ** 2
                for p in c.geometry.pairs
            )
        )
        np.testing.assert_allclose(found.drift[c.client], change, rtol=1e-5)
        np.testing.assert_allclose(found.update_norms[c.client], np.linalg.norm(c.delta.flat), rtol=1e-5)


def test_the_covariance_is_the_error_of_fedavg(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDAVG, context, generator, weights=[1, 2, 5])
    found = observed(context, cohort, lab.run(FEDAVG, context, cohort))
    assert found.error > 0.01
    np.testing.assert_allclose(found.covariance, found.error, rtol=1e-4)


def test_clients_that_move_alike_agree_and_opposite_ones_do_not(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    one, other = lab.contributions(FEDAVG, context, generator, weights=[3, 3])
    alike = [one, replace(other, delta=one.delta)]
    np.testing.assert_allclose(observed(context, alike, lab.run(FEDAVG, context, alike)).agreement, 1, rtol=1e-4)

    def side(c, sign):  # B alone: the product is linear in it
        flat = np.zeros_like(c.delta.flat)
        for pair in c.geometry.pairs:
            pair.b_of(flat)[...] = sign * pair.b_of(c.delta.flat)
        return replace(c, delta=AdapterState(c.delta.layout, flat))

    apart = [side(one, 1), replace(side(one, -1), client=other.client)]
    assert observed(context, apart, lab.run(FEDAVG, context, apart)).agreement < 1e-4


@pytest.mark.parametrize(("asked", "looked_at"), [(1, 1), (2, 2), (9, 2), (0, 0)])
def test_a_few_modules_can_stand_for_all(lab, asked, looked_at):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDAVG, context, generator, weights=[1, 2])
    assert observed(context, cohort, lab.run(FEDAVG, context, cohort), modules=asked).modules == looked_at


def test_a_round_in_which_nothing_happens_has_figures_of_zero(lab):
    generator = np.random.default_rng(0)
    geometry = lab.geometry()
    context = lab.context(geometry, generator, master=lab.fresh(geometry, generator))
    cohort = lab.contributions(FEDAVG, context, generator, weights=[1], size=0.0)
    found = observed(context, cohort, lab.run(FEDAVG, context, cohort))
    assert (found.exact_norm, found.error, found.covariance, found.effective_rank) == (0, 0, 0, 0)
