import numpy as np
import pytest

from plait.adapters import AdapterState
from plait.aggregation.product_optimizer import ProductSpace
from plait.aggregation.round import Outcome


def products(lab, context, step):
    flat = context.master.flat + step.flat
    return {pair.module: lab.dense(pair, flat) for pair in context.geometry.pairs}


def start(lab, context):
    return {pair.module: lab.dense(pair, context.master.flat) for pair in context.geometry.pairs}


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"lr": 1.0}, 1.0),
        ({"lr": 0.5}, 0.5),
        ({"lr": 1.0, "momentum": 0.9, "nesterov": True}, 1.9),
    ],
)
def test_the_first_step_goes_to_the_best_adapter_for_the_product_aimed_at(lab, settings, factor):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    step = lab.state(context.geometry, generator, 0.05)
    got, _ = ProductSpace(**settings).adjust(Outcome(step), {}, context)
    before, after = start(lab, context), products(lab, context, step)
    for module, product in products(lab, context, got).items():
        aim = before[module] + factor * (after[module] - before[module])
        np.testing.assert_allclose(product, lab.best(aim, 2), atol=1e-4)
    others = context.geometry.others_of
    np.testing.assert_allclose(others(got.flat), factor * others(step.flat), rtol=1e-4, atol=1e-6)


def test_momentum_adds_up_over_rounds(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    optimizer, memory = ProductSpace(momentum=0.9), {}
    momentum = dict.fromkeys((pair.module for pair in context.geometry.pairs), 0.0)
    for _ in range(3):
        step = lab.state(context.geometry, generator, 0.05)
        got, memory = optimizer.adjust(Outcome(step), memory, context)
        before, after = start(lab, context), products(lab, context, step)
        for module in momentum:
            momentum[module] = 0.9 * momentum[module] + after[module] - before[module]
    # Four times the rank holds the momentum of matrices this small to the last digit or nearly so.
    for module, product in products(lab, context, got).items():
        aim = before[module] + momentum[module]
        expected, found = (np.linalg.norm(aim - p) for p in (lab.best(aim, 2), product))
        assert found <= expected * (1 + 1e-3) + 1e-4


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_result_does_not_depend_on_how_products_are_split_into_factors(lab, adaptive):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    steps = [lab.state(context.geometry, generator, 0.05) for _ in range(2)]
    turns = {pair.module: np.linalg.qr(generator.normal(size=(2, 2)))[0] for pair in context.geometry.pairs}

    def turned(flat):
        flat = np.array(flat)
        for pair in context.geometry.pairs:
            pair.b_of(flat)[:] = pair.b_of(flat) @ turns[pair.module]
            pair.a_of(flat)[:] = turns[pair.module].T @ pair.a_of(flat)
        return AdapterState(context.geometry.layout, flat.astype(np.float32))

    def after_two(turn):
        own = lab.context(context.geometry, generator, master=turn(context.master.flat))
        memory = {}
        for step in steps:
            optimizer = ProductSpace(lr=0.3, momentum=0.5, adaptive=adaptive)
            got, memory = optimizer.adjust(Outcome(turn(step.flat)), memory, own)
        return products(lab, own, got)

    plain = after_two(lambda flat: AdapterState(context.geometry.layout, np.array(flat, np.float32)))
    for module, product in after_two(turned).items():
        np.testing.assert_allclose(product, plain[module], atol=2e-4)


def test_the_adaptive_step_is_as_large_as_the_learning_rate_says(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry({"q": (7, 5)}, rank=5), generator)
    step = lab.state(context.geometry, generator, 0.05)
    optimizer = ProductSpace(lr=0.1, adaptive=True, beta2=0.0, tau=1e-9)
    got, _ = optimizer.adjust(Outcome(step), {}, context)
    (module,) = start(lab, context)
    change = products(lab, context, got)[module] - start(lab, context)[module]
    np.testing.assert_allclose(np.linalg.norm(change), 0.1, rtol=1e-3)


def test_memory_stays_of_one_size(lab):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator)
    memory, sizes = {}, set()
    for _ in range(12):
        step = lab.state(context.geometry, generator, 0.05)
        _, memory = ProductSpace(momentum=0.9, adaptive=True).adjust(Outcome(step), memory, context)
        sizes.add(sum(array.size for array in memory.values()))
    assert len(sizes) <= 4
