"""A cohort to aggregate, and dense float64 maths to compare every rule with."""

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout
from plait.aggregation.contract import dense, exact_mean  # noqa: F401 (of the lab)
from plait.aggregation.contract import fresh_of as fresh
from plait.aggregation.contract import run_round as run  # noqa: F401 (of the lab)
from plait.aggregation.contract import state_of as state
from plait.aggregation.factors import fitted
from plait.aggregation.geometry import BOTH_SIDES, Geometry, geometry_of
from plait.aggregation.rule import Contribution, RoundContext

MODULES = {"model.q_proj": (7, 5), "model.up_proj": (6, 9)}


def spec(modules=MODULES, *, rank=2, alpha=4.0, others=True, **config):
    shapes = {}
    for module, (d_out, d_in) in modules.items():
        shapes[f"base_model.model.{module}.lora_A.weight"] = [rank, d_in]
        shapes[f"base_model.model.{module}.lora_B.weight"] = [d_out, rank]
    if others:
        shapes["base_model.model.score.weight"] = [2, 3]
    return AdapterSpec(
        method="lora",
        peft_config={"r": rank, "lora_alpha": alpha, **config},
        task=AdapterTask.CAUSAL_LM,
        labels=(),
        layout=Layout.of(shapes),
        init_seed=0,
    )


def geometry(modules=MODULES, **settings) -> Geometry:
    return geometry_of(spec(modules, **settings))


def context(geometry, generator, *, round_number=1, cohort=(), master=None):
    return RoundContext(
        round=round_number,
        master=state(geometry, generator) if master is None else master,
        geometry=geometry,
        initial=fresh(geometry, generator),
        cohort=cohort,
    )


def contributions(rule, context, generator, *, weights, geometries=None, size=0.5):
    """Clients that train as the rule wants it, from what the rule hands them."""
    made = []
    frozen = BOTH_SIDES - rule.trained(context.round)
    for k, weight in enumerate(weights):
        own = context.geometry if geometries is None else geometries[k]
        initial = fresh(own, np.random.default_rng(17))
        received = fitted(context.master, source=context.geometry, target=own, resizing=rule.resizing, fresh=initial)
        delta = np.array(state(own, generator, size).flat)
        for pair in own.pairs:
            for side in frozen:
                delta[pair.slot(side).offset :][: pair.slot(side).size] = 0
        made.append(Contribution(f"client-{k}", received, AdapterState(own.layout, delta), float(weight), own))
    return made


def round_of(rule, server=None, **settings):
    """A round's context, and clients that train as the rule wants it."""
    generator = np.random.default_rng(0)
    made = context(server or geometry(), generator)
    return made, contributions(rule, made, generator, **settings)


def trained(contribution):
    return contribution.received.flat.astype(np.float64) + contribution.delta.flat


def shares(contributions):
    weights = np.array([contribution.weight for contribution in contributions])
    return weights / weights.sum()


def landed(context, outcome):
    return context.master.flat + outcome.step.flat


def result(context, outcome):
    """By module: the product of the adapter after the step, dense."""
    return {pair.module: dense(pair, landed(context, outcome)) for pair in context.geometry.pairs}


def distance(left, right):
    return np.sqrt(sum(np.linalg.norm(left[module] - right[module]) ** 2 for module in right))


def size(products):
    return np.sqrt(sum(np.linalg.norm(product) ** 2 for product in products.values()))


def mean_delta(contributions):
    return sum(p * c.delta.flat.astype(np.float64) for p, c in zip(shares(contributions), contributions, strict=True))


def best(matrix, rank):
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vt[:rank]


def scaled(contribution, factor):
    """The same client with its delta so many times."""
    flat = np.float32(factor) * contribution.delta.flat
    return replace(contribution, delta=AdapterState(contribution.delta.layout, flat))


@pytest.fixture(scope="session")
def lab() -> ModuleType:
    """This module, whose parts are made once for all of its tests."""
    return sys.modules[__name__]
