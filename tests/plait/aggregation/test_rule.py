"""What a rule is given, and what travels for it."""

from dataclasses import replace

import numpy as np
import pytest

from plait.aggregation.means import FEDAVG
from plait.aggregation.rule import ANY_RANK
from plait.errors import PeerError


def contribution(lab, geometry):
    generator = np.random.default_rng(0)
    (made,) = lab.contributions(FEDAVG, lab.context(geometry, generator), generator, weights=[1.0])
    return made


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"q_proj": (7, 5)}, "is not adapted on both ends"),
        ({"model.q_proj": (7, 6), "model.up_proj": (6, 9)}, "is 7 x 6, expected 7 x 5"),
    ],
    ids=["other modules", "another base"],
)
def test_an_update_of_another_adapter_is_refused(lab, modules, message):
    server = lab.geometry(rank=2)
    with pytest.raises(PeerError, match=message):
        contribution(lab, lab.geometry(modules)).check(server, ranks=ANY_RANK)
    made = replace(contribution(lab, server), geometry=lab.geometry(rank=1))
    with pytest.raises(PeerError, match="tensors or ranks are not the ones of the declared adapter"):
        made.check(server, ranks=ANY_RANK)
