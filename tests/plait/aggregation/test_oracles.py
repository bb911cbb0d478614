"""Every rule in the table against dense float64 maths, over shapes, ranks, scales and weights.

Oracles form what the rules never form: padded factors and d_out x d_in products. If a result is a best product, and
there may be several, the distance is compared.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.aggregation import RULES, Exactness
from plait.aggregation.means import square_geometry

TOLERANCE = 1e-6
SHAPES = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=2)
ALPHAS = st.sampled_from([0.5, 4.0, 16.0])
CLIENTS = st.lists(st.tuples(st.integers(1, 4), ALPHAS, st.floats(0.01, 1000)), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**32 - 1)
# FedSB's squares have a test of their own.
EXACT = [name for name, rule in RULES.items() if rule.exactness is Exactness.EXACT and name != "fedsb"]
BEST = ("flexlora", "raflora")
FACTORS = ("fedavg", "fedsa", "hetlora", "rbla", "zeropad")


def arrange(lab, name, shapes, rank, alpha, clients, seed, round_number=1):
    """A round whose clients have ranks and scales of their own where the rule allows it."""
    rule, generator = RULES[name], np.random.default_rng(seed)
    modules = {f"m{i}": shape for i, shape in enumerate(shapes)}
    server = lab.geometry(modules, rank=rank, alpha=alpha)
    geometries = [server] * len(clients)
    if rule.mixed_ranks:
        ranks = [r if rule.higher_ranks else min(r, rank) for r, _, _ in clients]
        geometries = [lab.geometry(modules, rank=r, alpha=own) for r, (_, own, _) in zip(ranks, clients, strict=True)]
    context = lab.context(server, generator, round_number=round_number, cohort=tuple(geometries))
    weights = [weight for _, _, weight in clients]
    return rule, context, lab.contributions(rule, context, generator, weights=weights, geometries=geometries)


def magnitude(context, outcome):
    """What float32 rounds the products of a result at: that of their factors, however much of it cancels."""
    total = 0.0
    for pair in context.geometry.pairs:
        flats = context.master.flat, outcome.step.flat
        b, a = (sum(np.linalg.norm(of(flat).astype(np.float64)) for flat in flats) for of in (pair.b_of, pair.a_of))
        total += pair.scale * b * a
    return total


def padded(server, own, flat):
    """A client's B and A at the server's scale, with zeros in the slices that it has not, and which it has."""
    root = np.sqrt(own.scale / server.scale)
    b, a, has = np.zeros((server.d_out, server.rank)), np.zeros((server.rank, server.d_in)), np.zeros(server.rank)
    b[:, : own.rank], a[: own.rank], has[: own.rank] = root * own.b_of(flat), root * own.a_of(flat), 1
    return b, a, has


def factor_oracle(lab, name, context, cohort, server):
    """B and A of one module as the rule's paper has them."""
    p = lab.shares(cohort)
    own = [c.geometry.by_module[server.module] for c in cohort]
    trained = [lab.trained(c) for c in cohort]
    bs, as_, has = zip(*(padded(server, pair, flat) for pair, flat in zip(own, trained, strict=True)), strict=True)
    bs, as_, has = np.array(bs), np.array(as_), np.array(has)
    b0, a0 = (of(context.master.flat).astype(np.float64) for of in (server.b_of, server.a_of))
    mean_b, mean_a = np.tensordot(p, bs, 1), np.tensordot(p, as_, 1)
    if name in ("fedavg", "zeropad"):
        return mean_b, mean_a
    if name == "fedsa":
        return b0, mean_a
    if name == "hetlora":
        q = p * [np.linalg.norm(lab.dense(pair, flat)) for pair, flat in zip(own, trained, strict=True)]
        return np.tensordot(q / q.sum(), bs, 1), np.tensordot(q / q.sum(), as_, 1)
    assert name == "rbla"
    owners = p @ has
    q = np.divide(p[:, None] * has, owners, out=np.zeros_like(has), where=owners > 0)
    b, a = np.einsum("kr,kor->or", q, bs), np.einsum("kr,kri->ri", q, as_)
    return np.where(owners > 0, b, b0), np.where(owners[:, None] > 0, a, a0)


def partitioned_mean(cohort, lab, module):
    """raFLoRA's: each rank-one slice over the weight of those who have it."""
    mean = 0.0
    for i in range(max(c.geometry.by_module[module].rank for c in cohort)):
        owners = [c for c in cohort if c.geometry.by_module[module].rank > i]
        weight = sum(c.weight for c in owners)
        for c in owners:
            pair = c.geometry.by_module[module]
            b, a = pair.b_of(lab.trained(c))[:, i], pair.a_of(lab.trained(c))[i]
            mean = mean + c.weight / weight * pair.scale * np.outer(b, a)
    return mean


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=25)
@given(shapes=SHAPES, rank=st.integers(1, 4), alpha=ALPHAS, clients=CLIENTS, seed=SEEDS, number=st.integers(1, 2))
def test_an_exact_rule_is_the_dense_mean(lab, name, shapes, rank, alpha, clients, seed, number):
    rule, context, cohort = arrange(lab, name, shapes, rank, alpha, clients, seed, number)
    exact = lab.exact_mean(cohort)
    outcome = lab.run(rule, context, cohort)
    assert lab.distance(lab.result(context, outcome), exact) <= TOLERANCE * magnitude(context, outcome)


@pytest.mark.parametrize("name", BEST)
@settings(max_examples=25)
@given(shapes=SHAPES, rank=st.integers(1, 4), alpha=ALPHAS, clients=CLIENTS, seed=SEEDS)
def test_a_rule_in_product_space_is_the_truncated_decomposition(lab, name, shapes, rank, alpha, clients, seed):
    rule, context, cohort = arrange(lab, name, shapes, rank, alpha, clients, seed)
    outcome = lab.run(rule, context, cohort)
    lost = 0.0
    for module, product in lab.result(context, outcome).items():
        mean = partitioned_mean(cohort, lab, module) if name == "raflora" else lab.exact_mean(cohort)[module]
        least = np.linalg.norm(mean - lab.best(mean, rank))
        assert abs(np.linalg.norm(mean - product) - least) <= TOLERANCE * magnitude(context, outcome)
        lost += least**2
    assert abs(outcome.figures["truncation"] - lost**0.5) <= TOLERANCE * magnitude(context, outcome)


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTORS)
@settings(max_examples=25)
@given(shapes=SHAPES, rank=st.integers(1, 4), alpha=ALPHAS, clients=CLIENTS, seed=SEEDS, number=st.integers(1, 2))
def test_a_rule_on_factors_gives_the_factors_of_its_paper(lab, name, shapes, rank, alpha, clients, seed, number):
    rule, context, cohort = arrange(lab, name, shapes, rank, alpha, clients, seed, number)
    landed = lab.landed(context, lab.run(rule, context, cohort))
    largest = max(np.abs(lab.trained(c)).max() * np.sqrt(c.geometry.pairs[0].scale) for c in cohort)
    room = 4 * TOLERANCE * max(1.0, largest / np.sqrt(context.geometry.pairs[0].scale))
    for pair in context.geometry.pairs:
        b, a = factor_oracle(lab, name, context, cohort, pair)
        np.testing.assert_allclose(pair.b_of(landed), b, rtol=TOLERANCE, atol=room)
        np.testing.assert_allclose(pair.a_of(landed), a, rtol=TOLERANCE, atol=room)


@pytest.mark.parametrize("name", [name for name in RULES if name != "fedsb"])
@settings(max_examples=10)
@given(shapes=SHAPES, clients=CLIENTS, seed=SEEDS)
def test_what_is_no_factor_is_averaged_plainly_by_all_but_the_robust(lab, name, shapes, clients, seed):
    rule, context, cohort = arrange(lab, name, shapes, 2, 4.0, clients, seed)
    others = [c.geometry.others_of(c.delta.flat).astype(np.float64) for c in cohort]
    expected = np.average(others, axis=0, weights=lab.shares(cohort))
    got = context.geometry.others_of(lab.run(rule, context, cohort).step.flat)
    if rule.needs_all:
        assert (got >= np.min(others, axis=0) - TOLERANCE).all()
        assert (got <= np.max(others, axis=0) + TOLERANCE).all()
    else:
        np.testing.assert_allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_square_matrices_have_an_exact_mean(lab):
    factors = lab.geometry({"q": (40, 30)}, rank=3)
    geometry, generator = square_geometry(factors), np.random.default_rng(0)
    context = lab.context(geometry, generator)
    cohort = lab.contributions(RULES["fedsb"], context, generator, weights=[1, 2, 5])
    landed = lab.landed(context, lab.run(RULES["fedsb"], context, cohort))
    b, a = generator.normal(size=(40, 3)), generator.normal(size=(3, 30))
    (slot,) = (slot for slot in geometry.others if slot.name.endswith("lora_R"))
    square = slice(slot.offset, slot.offset + slot.size)
    exact = sum(
        p * b @ lab.trained(c)[square].reshape(3, 3) @ a for p, c in zip(lab.shares(cohort), cohort, strict=True)
    )
    error = np.linalg.norm(b @ landed[square].reshape(3, 3).astype(np.float64) @ a - exact)
    assert error <= 2e-7 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.needs_all])
def test_a_robust_rule_follows_the_honest_when_fewer_than_half_lie(lab, name):
    rule, context, cohort = arrange(lab, name, [(6, 5)], 2, 4.0, [(2, 4.0, 1.0)] * 5, 0)
    honest = np.array([c.delta.flat for c in cohort])
    liar = replace(cohort[0], client="liar", delta=lab.scaled(cohort[0], -1e6).delta)
    step = lab.run(rule, context, [*cohort, liar]).step.flat
    assert np.linalg.norm(step) <= 2 * max(np.linalg.norm(flat) for flat in honest)
    assert np.linalg.norm(lab.mean_delta([*cohort, liar])) > 1e4 * np.linalg.norm(step)
