import numpy as np

from plait.adapters import AdapterState, Layout
from plait.aggregation.step import landing, step_to


def test_a_step_lands_within_rounding_of_what_was_wanted():
    layout = Layout.of({"x": [1000]})
    generator = np.random.default_rng(0)
    master = AdapterState(layout, generator.normal(size=1000).astype(np.float32))
    wanted = generator.normal(size=1000)
    np.testing.assert_allclose(landing(step_to(wanted, master), master), wanted, rtol=0, atol=3e-7)


def test_a_step_to_zero_lands_on_zero():
    layout = Layout.of({"x": [1000]})
    master = AdapterState(layout, np.random.default_rng(0).normal(size=1000).astype(np.float32))
    assert not landing(step_to(np.zeros(1000), master), master).any()
