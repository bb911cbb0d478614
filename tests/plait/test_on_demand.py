"""A table whose parts are imported when they are asked for."""

import subprocess
import sys

import pytest

from plait.aggregation import RULES
from plait.features.exports.targets import TARGETS
from plait.flower.rule_table import ALL_RULES
from plait.on_demand import OnDemand


def test_every_place_of_every_table_has_its_part():
    for name, rule in ALL_RULES.items():
        assert rule.name == name
    assert all(map(callable, TARGETS.values()))


@pytest.mark.slow
def test_only_what_is_asked_for_is_imported():
    code = "from plait.aggregation import RULES; import sys; RULES['median']; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "plait.aggregation.median" in loaded
    assert "plait.aggregation.flora" not in loaded


def test_two_tables_are_one():
    both = OnDemand({"b": "math:pi"}) | OnDemand({"a": "math:e"})
    assert list(both) == ["a", "b"]
    assert "c" not in both
    assert len(RULES | RULES) == len(RULES)
