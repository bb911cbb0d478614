import sys

import pytest

from plait.adapters import AdapterSpec, Layout, Task
from plait.aggregation import geometry_of
from simulations.bench.footprint import measure

LAYOUT = Layout.of({"q.lora_A.weight": [8, 15_000], "q.lora_B.weight": [17_768, 8]})
FACTORS = geometry_of(AdapterSpec("lora", {"r": 8, "lora_alpha": 16}, Task.CAUSAL_LM, (), LAYOUT, 0))
UPDATE_BYTES = 4 * LAYOUT.size
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process begins anew on Linux only")


@pytest.mark.slow
def test_a_rule_that_needs_all_grows_with_the_cohort_and_fedavg_does_not():
    keeps = measure("median", FACTORS, early=20, updates=200, seconds=60)
    streams = measure("fedavg", FACTORS, early=20, updates=200, seconds=60)
    assert (keeps.updates, streams.updates) == (200, 200)
    assert keeps.added_bytes - keeps.early_bytes > 170 * UPDATE_BYTES
    # Later updates may still need further places of the exact sum, of two updates' size each.
    assert streams.added_bytes - streams.early_bytes < 12 * UPDATE_BYTES
    assert streams.added_bytes <= streams.peak_bytes


@pytest.mark.slow
def test_a_slow_rule_is_measured_for_as_long_as_asked():
    found = measure("fedavg", FACTORS, early=3, updates=10_000_000, seconds=0.0)
    assert (found.updates, found.early_updates) == (3, 3)
