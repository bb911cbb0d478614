from __future__ import annotations

import pytest

from plait.report.fairness import fairness, fairness_of, fairness_table
from tests.plait.conftest import view_of


def test_the_worst_the_spread_and_who_is_worse_off_follow_by_hand() -> None:
    found = fairness({"ann": 1.0, "bob": 4.0, "eve": 1.0}, {"ann": 2.0, "bob": 3.5, "eve": 1.25})
    assert found is not None
    assert found.mean == 2.0
    # Deviations -1, 2, -1: the root of their mean square.
    assert found.spread == pytest.approx(2**0.5)
    assert (found.worst_client, found.worst_loss) == ("bob", 4.0)
    assert (found.least_gaining_client, found.least_gain) == ("bob", -0.5)
    assert found.worse_off == 1


def test_clients_that_nothing_is_known_of_before_do_not_count_as_gaining() -> None:
    found = fairness({"new": 2.0}, {})
    assert found is not None
    assert (found.least_gaining_client, found.least_gain, found.worse_off) == (None, None, 0)
    assert fairness({}, {}) is None


def test_the_table_has_the_run_beside_its_start_and_its_baselines(small_run) -> None:
    view = view_of(small_run)
    table = fairness_table(view)
    assert [row[0] for row in table.rows] == ["before round 1", "federated", "central"]
    assert all(len(row) == len(table.headings) for row in table.rows)
    assert table.rows[1][3:5] == ("3.500", "bob")
    assert fairness_table(view_of(small_run[:1])).rows == ()
    assert fairness_of(view_of(small_run[:1])) is None
