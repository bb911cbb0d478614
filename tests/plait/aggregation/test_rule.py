"""What a rule is given, and what travels for it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from plait.aggregation.means import FEDAVG
from plait.aggregation.rule import ANY_RANK, ONE_RANK, UP_TO_SERVER
from plait.errors import PeerError


@pytest.fixture
def server(lab):
    return lab.geometry(rank=2)


def contribution(lab, geometry, **changes):
    generator = np.random.default_rng(0)
    (made,) = lab.contributions(FEDAVG, lab.context(geometry, generator), generator, weights=[1.0])
    return dataclasses.replace(made, **changes)


def test_tensors_that_are_not_the_declared_ones_are_refused(lab, server):
    made = dataclasses.replace(contribution(lab, server), geometry=lab.geometry(rank=1))
    with pytest.raises(PeerError, match="tensors or ranks are not the ones of the declared adapter"):
        made.check(server, ranks=ANY_RANK)


def test_other_modules_are_refused(lab, server):
    other = contribution(lab, lab.geometry({"q_proj": (7, 5)}))
    with pytest.raises(PeerError, match="is not adapted on both ends"):
        other.check(server, ranks=ANY_RANK)


def test_another_base_is_refused(lab, server):
    other = contribution(lab, lab.geometry({"model.q_proj": (7, 6), "model.up_proj": (6, 9)}))
    with pytest.raises(PeerError, match="is 7 x 6, expected 7 x 5"):
        other.check(server, ranks=ANY_RANK)


def test_another_scale_is_another_rank_to_a_rule_of_one_rank(lab, server):
    made = contribution(lab, lab.geometry(rank=2, alpha=8.0))
    with pytest.raises(PeerError, match=r"scale of .* is 4, expected 2"):
        made.check(server, ranks=ONE_RANK)
    made.check(server, ranks=UP_TO_SERVER)
