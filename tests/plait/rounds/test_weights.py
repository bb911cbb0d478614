import math
from dataclasses import replace

import numpy as np
import pytest

from plait.rounds.norm_bound import WEIGHT_RATIO, bounded
from plait.rounds.run_view import RunView
from plait.rounds.spool import Weighting
from tests.plait.rounds.conftest import started

HUGE = 1 << 40


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        ({"a": 5}, {"a": 5.0}),
        ({"a": 5, "b": 50}, {"a": 5.0, "b": 50.0}),
        ({"a": 5, "b": 51}, {"a": 5.0, "b": 50.0}),
        ({"a": 1, "b": 2, "c": 2**63 - 1}, {"a": 1.0, "b": 2.0, "c": 20.0}),
        ({"a": 3, "b": 4, "c": HUGE, "d": HUGE}, {"a": 3.0, "b": 4.0, "c": 40.0, "d": 40.0}),
    ],
)
def test_no_weight_is_more_than_ten_times_the_lower_median(examples, expected):
    assert WEIGHT_RATIO == 10
    assert bounded(examples, WEIGHT_RATIO) == expected


def test_a_client_that_claims_to_have_all_the_data_there_are_is_not_the_mean(federate):
    models = dict(federate().models)
    models["mallory"] = replace(models["mallory"], train_examples=HUGE)
    federation = federate(models, rounds=1, weighting=Weighting.EXAMPLES)
    state = federation.run()
    values = federation.initial.flat.astype(np.float64)
    weights = {"alice": 3.0, "bob": 7.0, "mallory": 70.0}
    deltas = [weights[name] * (federation.train_alone(name, values, 1) - values) for name in weights]
    np.testing.assert_allclose(state.adapter.flat, values + sum(deltas) / sum(weights.values()), rtol=0, atol=1e-6)
    assert federation.of_kind("round_finished")[0]["weight_capped"] == ["mallory"]


def test_where_all_count_alike_nothing_is_capped(federate):
    models = dict(federate().models)
    models["mallory"] = replace(models["mallory"], train_examples=HUGE)
    federation = federate(models, rounds=1, weighting=Weighting.EQUAL)
    federation.run()
    assert "weight_capped" not in federation.of_kind("round_finished")[0]


@pytest.mark.parametrize("examples", [2**44, 2**59])
def test_more_data_than_there_are_is_no_description(federate, examples):
    models = dict(federate().models)
    models["mallory"] = replace(models["mallory"], train_examples=examples)
    federation = federate(models, quorum=2, rounds=1, weighting=Weighting.EXAMPLES)
    federation.run()
    (event,) = federation.of_kind("client_turned_away")
    assert (event["client"], event["reason"]) == ("mallory", "weight")
    assert f"states {examples} training examples" in event["detail"]


def test_a_run_from_before_there_was_a_bound_is_verified_without(federate):
    assert RunView.of([started()]).weight_ratio == math.inf
    assert RunView.of([started(weight_ratio=10.0)]).weight_ratio == 10.0
