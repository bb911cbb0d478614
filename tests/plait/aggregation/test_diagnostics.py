"""The figures of a round against dense maths."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout
from plait.adapters.bottleneck import bottlenecks_of
from plait.aggregation import Contribution, RoundContext, geometry_of
from plait.aggregation.bottleneck_diagnostics import BottleneckObserver
from plait.aggregation.diagnostics import Observer
from plait.aggregation.means import FEDAVG
from plait.aggregation.products import FLEXLORA
from plait.errors import ConfigError
from plait.training.bottleneck import activated

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


def test_clients_that_move_alike_agree_and_opposite_ones_do_not(lab):
    context, (one, other) = lab.round_of(FEDAVG, weights=[3, 3])
    alike = [one, replace(other, delta=one.delta)]
    np.testing.assert_allclose(observed(context, alike, lab.run(FEDAVG, context, alike)).agreement, 1, rtol=1e-4)

    def side(c, sign):  # B alone: the product is linear in it
        flat = np.zeros_like(c.delta.flat)
        for pair in c.geometry.pairs:
            pair.b_of(flat)[...] = sign * pair.b_of(c.delta.flat)
        return replace(c, delta=AdapterState(c.delta.layout, flat))

    apart = [side(one, 1), replace(side(one, -1), client=other.client)]
    assert observed(context, apart, lab.run(FEDAVG, context, apart)).agreement < 1e-4


WIDTH, RANK = 6, 3
SHAPES = {
    f"base_model.model.{module}.bottleneck_{part}": shape
    for module in ("a.o_proj", "b.down_proj")
    for part, shape in {
        "down.weight": (RANK, WIDTH), "down.bias": (RANK,), "up.weight": (WIDTH, RANK), "up.bias": (WIDTH,)
    }.items()
}  # fmt: skip


def spec_of(activation: str) -> AdapterSpec:
    settings = {"peft_type": "BOTTLENECK", "r": RANK, "act_fn": activation}
    return AdapterSpec("bottleneck", settings, AdapterTask.CAUSAL_LM, (), Layout.of(SHAPES), 0)


def output(state: AdapterState, module: str, x: np.ndarray, activation: str) -> np.ndarray:
    """In torch, float64."""
    parts = {
        part: torch.from_numpy(state[f"base_model.model.{module}.bottleneck_{part}"].astype(np.float64))
        for part in ("down.weight", "down.bias", "up.weight", "up.bias")
    }
    inner = torch.from_numpy(x) @ parts["down.weight"].T + parts["down.bias"]
    return (activated(inner, activation) @ parts["up.weight"].T + parts["up.bias"]).numpy()


@pytest.fixture
def cohort() -> tuple[RoundContext, list[Contribution]]:
    spec = spec_of("gelu")
    generator = np.random.default_rng(0)
    geometry = geometry_of(spec)

    def drawn(scale: float) -> AdapterState:
        return AdapterState(spec.layout, generator.normal(scale=scale, size=spec.layout.size).astype(np.float32))

    master = drawn(0.5)
    context = RoundContext(round=2, master=master, geometry=geometry, initial=master, seed=5)
    return context, [Contribution(name, master, drawn(1.0), weight, geometry) for name, weight in (("x", 1), ("y", 3))]


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "tanh"])
def test_the_figures_are_those_of_the_functions_on_the_same_inputs(lab, activation, cohort):
    context, updates = cohort
    outcome = lab.run(FEDAVG, context, updates)
    observer = BottleneckObserver(context, spec_of(activation))
    for contribution in updates:
        observer.add(contribution)
    found = observer.finish(outcome)
    generator = np.random.default_rng([context.seed, context.round])
    square = dict.fromkeys(("exact", "error", "moved", "x", "y"), 0.0)
    for module in ("a.o_proj", "b.down_proj"):
        x = generator.standard_normal((found.inputs, WIDTH))
        after = {
            each.client: AdapterState(each.delta.layout, context.master.flat + each.delta.flat) for each in updates
        }
        of = {client: output(state, module, x, activation) for client, state in after.items()}
        exact = (of["x"] + 3 * of["y"]) / 4
        before = output(context.master, module, x, activation)
        result = AdapterState(context.master.layout, context.master.flat + outcome.step.flat)
        square["exact"] += np.square(exact).sum()
        square["error"] += np.square(exact - output(result, module, x, activation)).sum()
        square["moved"] += np.square(exact - before).sum()
        for client in of:
            square[client] += np.square(of[client] - before).sum()
    norms = {name: math.sqrt(value / found.inputs) for name, value in square.items()}
    assert found.exact_norm == pytest.approx(norms["exact"], rel=1e-6)
    assert found.error == pytest.approx(norms["error"] / norms["exact"], rel=1e-5)
    # FedAvg averages the parameters, and that is inexact.
    assert found.covariance == pytest.approx(found.error, rel=1e-4)
    assert found.error > 0.01
    assert found.drift == pytest.approx({"x": norms["x"], "y": norms["y"]}, rel=1e-6)
    assert found.agreement == pytest.approx(norms["moved"] * 4 / (norms["x"] + 3 * norms["y"]), rel=1e-6)


@pytest.mark.parametrize("change", [{"up.bias": (WIDTH + 1,)}, {"down.weight": (RANK,)}, {"up.weight": None}])
def test_a_layout_with_a_hole_is_refused(change):
    shapes = dict(SHAPES)
    for part, shape in change.items():
        name = f"base_model.model.a.o_proj.bottleneck_{part}"
        del shapes[name]
        if shape:
            shapes[name] = shape
    with pytest.raises(ConfigError, match=r"of 'base_model\.model\.a\.o_proj'"):
        bottlenecks_of(replace(spec_of("gelu"), layout=Layout.of(shapes)).layout)
