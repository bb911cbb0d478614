from __future__ import annotations

import math
import statistics

import pytest

from plait.features.studies.interval import margin_of_mean

# Student's t, 97.5 %, from the tables of Abramowitz and Stegun (26.10), by degrees of freedom.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262, 30: 2.042, 120: 1.980}


@pytest.mark.parametrize(("freedom", "t"), TABLE.items())
def test_the_margin_is_student_s(freedom: int, t: float) -> None:
    values = [float(number**2) for number in range(freedom + 1)]
    expected = t * statistics.stdev(values) / math.sqrt(freedom + 1)
    assert margin_of_mean(values) == pytest.approx(expected, rel=3e-4)


def test_one_value_has_no_margin() -> None:
    assert margin_of_mean([1.0]) is None
