import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.aggregation.contribution import Contribution
from plait.aggregation.fedsb import FEDSB
from plait.aggregation.geometry import Geometry
from plait.aggregation.round import RoundContext
from plait.errors import ConfigError

LAYOUT = Layout.of({"q.lora_R": [3, 3], "up.lora_R": [3, 3]})
GEOMETRY = Geometry(LAYOUT, (), LAYOUT.slots)


def test_the_mean_of_r_is_the_exact_mean_of_b_r_a(lab):
    generator = np.random.default_rng(0)
    b, a = generator.normal(size=(7, 3)), generator.normal(size=(3, 5))
    master = lab.state(GEOMETRY, generator)
    context = RoundContext(round=1, master=master, geometry=GEOMETRY, initial=master)
    cohort = [Contribution(f"c{k}", master, lab.state(GEOMETRY, generator), k + 1.0, GEOMETRY) for k in range(4)]
    landed = AdapterState(LAYOUT, lab.landed(context, lab.run(FEDSB, context, cohort)))
    for name in ("q.lora_R", "up.lora_R"):
        exact = sum(
            p * b @ (c.received[name].astype(float) + c.delta[name]) @ a
            for p, c in zip(lab.shares(cohort), cohort, strict=True)
        )
        np.testing.assert_allclose(b @ landed[name] @ a, exact, rtol=1e-6, atol=1e-5)


def test_an_adapter_that_trains_a_and_b_is_refused(lab):
    with pytest.raises(ConfigError, match=r"rule is 'fedsb' but .* trains A and B"):
        FEDSB.begin(lab.context(lab.geometry(), np.random.default_rng(0)))


def test_only_the_square_matrices_travel():
    assert FEDSB.traffic(GEOMETRY).uplink == 2 * 3 * 3
