import json

import numpy as np
import pytest

from plait.adapters import AdapterSpec, Layout, Task
from plait.aggregation import RULES, geometry_of
from plait.errors import ConfigError
from plait.flower.rule_table import FLOWER_RULES
from simulations.bench.aggregate import against_memory, fold, rows
from simulations.bench.updates import Drift, Updates

LAYOUT = Layout.of({"q.lora_A.weight": [2, 30], "q.lora_B.weight": [40, 2]})
SPEC = AdapterSpec("lora", {"r": 2, "lora_alpha": 4}, Task.CAUSAL_LM, (), LAYOUT, 0)


@pytest.fixture(scope="module")
def measured():
    return list(rows(SPEC, clients=3, repetitions=1))


def test_every_rule_is_measured(measured):
    rated = {row.row.split(",")[0] for row in measured if row.row.endswith("rate")}
    assert rated == {*RULES, *FLOWER_RULES}


def test_rows_are_json_of_one_shape_with_positive_values(measured):
    shape = {"row", "value", "unit", "peers", "limit", "ratio_to_best_peer", "ratio_to_limit"}
    reports = [json.loads(json.dumps(row.to_json(), allow_nan=False)) for row in measured]
    assert all(report.keys() == shape and report["value"] > 0 for report in reports)
    assert len({report["row"] for report in reports}) == len(reports)


def test_fedavg_stands_beside_copying_and_numpy():
    row = against_memory(geometry_of(SPEC), repetitions=1)
    assert row.limit is not None
    assert len(row.peers) == 2
    assert row.to_json()["ratio_to_limit"] == row.value / row.limit


def test_the_numpy_ways_compute_what_fedavg_computes():
    updates = Updates(RULES["fedavg"], geometry_of(SPEC), seed=0, drift=Drift())
    given = [updates.contribution(client, updates.delta(client)) for client in range(5)]
    expected = np.average([c.delta.flat for c in given], axis=0, weights=[c.weight for c in given])
    np.testing.assert_allclose(fold(RULES["fedavg"], updates.context, given).step.flat, expected, rtol=1e-5, atol=1e-7)


def test_only_the_rules_asked_for_are_measured():
    asked = rows(SPEC, names=("ffa", "krum"), clients=3, repetitions=1)
    assert {row.row.split(",")[0] for row in asked} == {"ffa", "krum"}


def test_a_rule_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"rule is 'krumm', .* did you mean 'krum'"):
        list(rows(SPEC, names=("krumm",), clients=3, repetitions=1))
