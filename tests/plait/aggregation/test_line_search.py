import math

import numpy as np
import pytest

from plait.adapters import AdapterState
from plait.aggregation.line_search import LineSearch, slope_of
from plait.aggregation.round import Outcome


@pytest.fixture
def lengths(lab):
    """The length of each step over that of the rule's, for these slopes, one per round."""
    context = lab.context(lab.geometry(), np.random.default_rng(0))

    def run(*slopes):
        step = AdapterState(context.master.layout, np.ones(context.master.layout.size, np.float32))
        memory, taken = {}, []
        for slope in slopes:
            after, memory = LineSearch().adjust(Outcome(step, slope=slope), memory, context)
            taken.append(float(after.flat[0]))
        return taken

    return run


def test_a_step_gets_longer_while_the_loss_still_fell_where_the_last_one_ended(lengths):
    assert lengths(None, -0.19, 0.21, None) == pytest.approx([1.0, 1 / 0.9, 1 / 0.99, 1 / 0.99])


def test_steps_stay_within_bounds_whatever_clients_say(lengths):
    assert lengths(-1.0, -1.0, 1.0, 1.0) == pytest.approx([1.5, 1.5, 1.5 / 2**0.5, 0.75])


def test_the_slope_is_the_weighted_mean_over_those_that_measured_it_relative_to_a_quarter_of_the_loss():
    assert slope_of([(-0.1, 1.0), (math.nan, 5.0), (0.05, 3.0)]) == pytest.approx((-0.4 + 3 * 0.2) / 4)
    assert slope_of([(math.nan, 1.0)]) is None


def test_no_client_counts_for_more_than_one():
    assert slope_of([(1e9, 1.0), (-0.05, 1.0)]) == pytest.approx((1 - 0.2) / 2)
