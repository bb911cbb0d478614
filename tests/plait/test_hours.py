from __future__ import annotations

import pytest

from plait.errors import ConfigError
from plait.hours import hours_of


def test_hours_may_pass_midnight() -> None:
    assert hours_of("22-6") == {22, 23, 0, 1, 2, 3, 4, 5}
    assert hours_of("") == set(range(24))
    assert hours_of("20-24") == {20, 21, 22, 23}
    assert hours_of("0-24") == set(range(24))


@pytest.mark.parametrize("text", ["8", "8-8", "25-3", "8-25", "-1-5", "8-x", "08:00-18:00", "8-9-10"])
def test_anything_but_two_different_hours_is_refused(text) -> None:
    with pytest.raises(ConfigError, match="expected"):
        hours_of(text)
