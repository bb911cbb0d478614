import numpy as np
import pytest

from plait.adapters import AdapterSpec, Layout, Task
from plait.aggregation import RULES, geometry_of
from simulations.bench.updates import Drift, Updates

LAYOUT = Layout.of({"q.lora_A.weight": [4, 500], "q.lora_B.weight": [600, 4]})
FACTORS = geometry_of(AdapterSpec("lora", {"r": 4, "lora_alpha": 8}, Task.CAUSAL_LM, (), LAYOUT, 0))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_takes_the_updates_made_for_it(name):
    updates = Updates(RULES[name], FACTORS, seed=0, drift=Drift())
    accumulator = RULES[name].begin(updates.context)
    for client in range(3):
        accumulator.add(updates.contribution(client, updates.delta(client)))
    assert np.isfinite(accumulator.finish().step.flat).all()


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_the_drift_is_as_large_and_as_common_as_asked(shared):
    updates = Updates(RULES["fedavg"], FACTORS, seed=0, drift=Drift(size=0.2, shared=shared))
    one, two = updates.delta(0), updates.delta(1)
    size = np.linalg.norm(updates.context.master.flat)
    assert np.linalg.norm(one) == pytest.approx(0.2 * size, rel=0.1)
    assert one @ two / (np.linalg.norm(one) * np.linalg.norm(two)) == pytest.approx(shared, abs=0.1)


def test_an_update_has_a_buffer_of_its_own():
    updates = Updates(RULES["fedavg"], FACTORS, seed=0, drift=Drift())
    delta = updates.delta(0)
    assert not np.shares_memory(updates.contribution(0, delta).delta.flat, delta)
    np.testing.assert_array_equal(delta, Updates(RULES["fedavg"], FACTORS, seed=0, drift=Drift()).delta(0))
