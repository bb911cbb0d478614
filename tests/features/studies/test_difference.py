from __future__ import annotations

import math
import statistics

import pytest

from plait.features.studies.comparison import compare
from plait.features.studies.difference import Difference, Pairing, difference, margin_of_mean


def found(*runs) -> Difference | None:
    comparison = compare(*runs)
    return difference(comparison.groups[1], comparison.baseline)


def test_seeds_in_common_are_subtracted_one_by_one(make_run) -> None:
    """Losses vary by 1 between seeds and by 0.01 within them: only pairs tell the rules apart."""
    losses = {0: (3.0, 3.1), 1: (2.0, 2.11), 2: (2.5, 2.59), 7: (9.0, None)}
    runs = []
    for rule, place in (("fedavg", 0), ("ffa", 1)):
        runs += [
            make_run(f"{rule}-{seed}", pair[place], seed=seed, rule=rule)
            for seed, pair in losses.items()
            if pair[place] is not None
        ]
    moved = [0.1, 0.11, 0.09]
    margin = 4.3027 * statistics.stdev(moved) / math.sqrt(3)
    difference = found(*runs)
    assert difference == Difference(pytest.approx(0.1), pytest.approx(margin, rel=1e-4), Pairing.SEEDS, 3)
    assert abs(difference.mean) > difference.margin


def test_single_runs_with_the_same_start_are_paired_over_sequences(make_run) -> None:
    one, other = (make_run(name, loss, rule=name) for name, loss in (("fedavg", 3.0), ("ffa", 3.2)))
    # Each change is known to 0.03; the losses themselves only to 0.5.
    assert found(one, other) == Difference(pytest.approx(0.2), pytest.approx(math.hypot(0.03, 0.03)), Pairing.SEQUENCES)


@pytest.mark.parametrize("change", [{"tokens": 101}, {"base_loss": 4.1}, {"change_margin": None}])
def test_without_the_same_start_they_are_not_paired(make_run, change) -> None:
    one, other = make_run("fedavg", 3.0, rule="fedavg"), make_run("ffa", 3.2, rule="ffa", **change)
    difference = found(one, other)
    assert difference == Difference(pytest.approx(0.2), pytest.approx(math.hypot(0.5, 0.5)), Pairing.NOTHING)
    assert abs(difference.mean) < difference.margin


def test_groups_without_a_common_seed_are_not_paired(make_run) -> None:
    ours = [make_run(f"a-{seed}", loss, seed=seed, rule="fedavg") for seed, loss in ((0, 3.0), (1, 3.2))]
    theirs = [make_run(f"b-{seed}", loss, seed=seed, rule="ffa") for seed, loss in ((2, 3.5), (3, 3.9))]
    margins = [12.706 * statistics.stdev(losses) / math.sqrt(2) for losses in ((3.0, 3.2), (3.5, 3.9))]
    assert found(*ours, *theirs) == Difference(
        pytest.approx(0.6), pytest.approx(math.hypot(*margins), rel=1e-4), Pairing.NOTHING
    )


# Student's t, 97.5 %, from the tables of Abramowitz and Stegun (26.10), by degrees of freedom.
@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (2, 4.303), (9, 2.262), (120, 1.980)])
def test_the_margin_is_student_s(freedom: int, t: float) -> None:
    values = [float(number**2) for number in range(freedom + 1)]
    expected = t * statistics.stdev(values) / math.sqrt(freedom + 1)
    assert margin_of_mean(values) == pytest.approx(expected, rel=3e-4)
    assert margin_of_mean(values[:1]) is None
