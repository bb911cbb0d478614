"""Rules that average factors, beside what the oracles say of them."""

import numpy as np
import pytest

from plait.aggregation.geometry import Side
from plait.aggregation.means import FEDAVG, FFA, ROLORA
from plait.aggregation.slice_means import HETLORA
from plait.errors import PeerError


def test_ffa_trains_and_sends_b_alone_and_rolora_begins_with_it_since_a_fresh_adapter_gives_a_no_gradient(lab):
    geometry = lab.geometry()
    assert [ROLORA.trained(number) for number in (1, 2, 3)] == [{Side.B}, {Side.A}, {Side.B}]
    assert FFA.trained(1) == FFA.trained(2) == {Side.B}
    sent = geometry.side_size(Side.B) + geometry.others_size
    assert FFA.traffic(geometry).uplink == FFA.traffic(geometry).downlink == sent


@pytest.mark.parametrize(("rule", "number", "side"), [(FFA, 1, "A"), (ROLORA, 1, "A"), (ROLORA, 2, "B")])
def test_an_update_that_trained_the_frozen_side_is_refused(lab, rule, number, side):
    generator = np.random.default_rng(0)
    context = lab.context(lab.geometry(), generator, round_number=number)
    with pytest.raises(PeerError, match=rf"{side} of .* has changed"):
        lab.run(rule, context, lab.contributions(FEDAVG, context, generator, weights=[1]))


def test_a_module_without_any_product_stays_as_it_is(lab):
    generator = np.random.default_rng(0)
    geometry = lab.geometry()
    context = lab.context(geometry, generator, master=lab.fresh(geometry, generator))
    cohort = lab.contributions(HETLORA, context, generator, weights=[1, 2], size=0.0)
    assert not lab.run(HETLORA, context, cohort).step.flat.any()
