import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.adapters import AdapterState
from plait.aggregation.fedavg import FEDAVG
from plait.aggregation.fedrot import FEDROT


def orthogonal(generator, n):
    return np.linalg.qr(generator.normal(size=(n, n)))[0]


@settings(max_examples=20)
@given(
    weights=st.lists(st.integers(1, 1000), min_size=1, max_size=4),
    round_number=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_client_is_turned_as_near_to_the_received_factor_as_can_be(lab, weights, round_number, seed):
    generator = np.random.default_rng(seed)
    context = lab.context(lab.geometry(), generator, round_number=round_number)
    cohort = lab.contributions(FEDROT, context, generator, weights=weights)
    landed = lab.landed(context, lab.run(FEDROT, context, cohort))
    for pair in context.geometry.pairs:
        b_mean, a_mean = 0.0, 0.0
        for p, c in zip(lab.shares(cohort), cohort, strict=True):
            b, a = pair.b_of(lab.trained(c)), pair.a_of(lab.trained(c))
            b0, a0 = pair.b_of(c.received.flat).astype(float), pair.a_of(c.received.flat).astype(float)
            u, _, vt = np.linalg.svd(a @ a0.T if round_number == 1 else b.T @ b0)
            turned = u @ vt
            near = np.linalg.norm(turned.T @ a - a0 if round_number == 1 else b @ turned - b0)
            for _ in range(5):
                other = orthogonal(generator, pair.rank)
                assert near <= np.linalg.norm(other.T @ a - a0 if round_number == 1 else b @ other - b0) + 1e-9
            b_mean, a_mean = b_mean + p * b @ turned, a_mean + p * turned.T @ a
        np.testing.assert_allclose(pair.b_of(landed), b_mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(pair.a_of(landed), a_mean, rtol=1e-5, atol=1e-5)


def test_clients_that_differ_by_a_rotation_only_agree(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    (one,) = lab.contributions(FEDROT, context, generator, weights=[1], size=0.05)
    turned = lab.trained(one)
    for pair in context.geometry.pairs:
        rotation = orthogonal(generator, pair.rank)
        pair.b_of(turned)[:] = pair.b_of(turned) @ rotation
        pair.a_of(turned)[:] = rotation.T @ pair.a_of(turned)
    delta = AdapterState(context.geometry.layout, (turned - one.received.flat).astype(np.float32))
    cohort = [one, dataclasses.replace(one, client="client-1", delta=delta)]
    exact = lab.exact_mean(cohort)
    assert lab.distance(lab.result(context, lab.run(FEDROT, context, cohort)), exact) <= 1e-5 * lab.size(exact)
    assert lab.distance(lab.result(context, lab.run(FEDAVG, context, cohort)), exact) > 0.1 * lab.size(exact)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_a_softer_turn_still_keeps_each_product(lab, strength):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    cohort = lab.contributions(FEDROT, context, generator, weights=[1])
    exact = lab.exact_mean(cohort)
    outcome = lab.run(FEDROT.with_options({"strength": str(strength)}), context, cohort)
    assert lab.distance(lab.result(context, outcome), exact) <= 1e-6 * lab.size(exact)
    if strength == 0.0:
        np.testing.assert_allclose(outcome.step.flat, cohort[0].delta.flat, atol=1e-6)
