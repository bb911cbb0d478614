from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from plait.adapters import AdapterSpec, AdapterState, Layout, Task
from plait.adapters.bottleneck_layout import bottlenecks_of
from plait.aggregation import Contribution, Outcome, RoundContext, geometry_of
from plait.aggregation.bottleneck_observer import BottleneckObserver
from plait.aggregation.fedavg import FEDAVG
from plait.errors import ConfigError
from plait.training.bottleneck import activated

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
    return AdapterSpec("bottleneck", settings, Task.CAUSAL_LM, (), Layout.of(SHAPES), 0)


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


def measured(context: RoundContext, cohort: list[Contribution], outcome: Outcome, activation: str):
    observer = BottleneckObserver(context, spec_of(activation))
    for contribution in cohort:
        observer.add(contribution)
    return observer.finish(outcome)


def averaged(context: RoundContext, cohort: list[Contribution]) -> Outcome:
    accumulator = FEDAVG.begin(context)
    for contribution in cohort:
        accumulator.add(contribution)
    return accumulator.finish()


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "tanh"])
def test_the_figures_are_those_of_the_functions_on_the_same_inputs(activation, cohort) -> None:
    context, updates = cohort
    outcome = averaged(context, updates)
    found = measured(context, updates, outcome, activation)
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


def test_one_client_s_mean_is_exact(cohort) -> None:
    context, updates = cohort
    found = measured(context, updates[:1], averaged(context, updates[:1]), "gelu")
    assert found.error < 1e-6
    assert found.agreement == pytest.approx(1)


def test_fewer_modules_can_be_measured(cohort) -> None:
    context, updates = cohort
    observer = BottleneckObserver(context, spec_of("gelu"), modules=1)
    observer.add(updates[0])
    assert observer.finish(averaged(context, updates[:1])).modules == 1


@pytest.mark.parametrize("change", [{"up.bias": (WIDTH + 1,)}, {"down.weight": (RANK,)}, {"up.weight": None}])
def test_a_layout_with_a_hole_is_refused(change) -> None:
    shapes = dict(SHAPES)
    for part, shape in change.items():
        name = f"base_model.model.a.o_proj.bottleneck_{part}"
        del shapes[name]
        if shape:
            shapes[name] = shape
    with pytest.raises(ConfigError, match=r"of 'base_model\.model\.a\.o_proj'"):
        bottlenecks_of(replace(spec_of("gelu"), layout=Layout.of(shapes)).layout)
