from __future__ import annotations

import pytest

from plait.report.clients import fairness


def test_the_worst_the_spread_and_who_is_worse_off_follow_by_hand() -> None:
    found = fairness({"ann": 1.0, "bob": 4.0, "eve": 1.0}, {"ann": 2.0, "bob": 3.5, "eve": 1.25})
    assert found is not None
    assert found.mean == 2.0
    # Deviations -1, 2, -1: the root of their mean square.
    assert found.spread == pytest.approx(2**0.5)
    assert (found.worst_client, found.worst_loss) == ("bob", 4.0)
    assert (found.least_gaining_client, found.least_gain) == ("bob", -0.5)
    assert found.worse_off == 1
