import numpy as np
import pytest

from plait.adapters import AdapterSpec, AdapterTask, Layout
from plait.aggregation import RULES, geometry_of
from plait.flower import FLOWER_RULES
from simulations.bench.aggregate import fold, rows
from simulations.bench.updates import Drift, Updates

LAYOUT = Layout.of({"q.lora_A.weight": [2, 30], "q.lora_B.weight": [40, 2]})
SPEC = AdapterSpec("lora", {"r": 2, "lora_alpha": 4}, AdapterTask.CAUSAL_LM, (), LAYOUT, 0)


@pytest.fixture(scope="module")
def measured():
    return list(rows(SPEC, clients=3, repetitions=1))


def test_every_rule_is_measured(measured):
    rated = {row.row.split(",")[0] for row in measured if row.row.endswith("rate")}
    assert rated == {*RULES, *FLOWER_RULES}


def test_the_numpy_ways_compute_what_fedavg_computes():
    updates = Updates(RULES["fedavg"], geometry_of(SPEC), seed=0, drift=Drift())
    given = [updates.contribution(client, updates.delta(client)) for client in range(5)]
    expected = np.average([c.delta.flat for c in given], axis=0, weights=[c.weight for c in given])
    np.testing.assert_allclose(fold(RULES["fedavg"], updates.context, given).step.flat, expected, rtol=1e-5, atol=1e-7)
