import math

import numpy as np
import pytest

from plait.features.attacks.scores import Attack, exposure


def test_the_area_is_the_probability_that_a_member_scores_higher_with_ties_counting_half():
    members, others = [1.0, 2.0, 2.0, 5.0], [0.0, 2.0, 3.0]
    pairs = [(1.0 if m > o else 0.5 if m == o else 0.0) for m in members for o in others]
    assert Attack.of("x", members, others).auc == pytest.approx(sum(pairs) / len(pairs))
    assert Attack.of("x", others, members).auc == pytest.approx(1 - sum(pairs) / len(pairs))


def test_the_interval_covers_the_truth_in_95_of_100():
    # Two normal distributions whose means differ by 1: the area is Phi(1 / sqrt 2).
    generator, truth = np.random.default_rng(2), 0.5 * math.erfc(-0.5)
    found = [
        Attack.of("x", generator.normal(1, 1, 80).tolist(), generator.normal(0, 1, 120).tolist()) for _ in range(400)
    ]
    covered = np.mean([abs(each.auc - truth) <= each.margin for each in found])
    assert 0.92 < covered < 0.98


def test_true_positives_are_those_above_all_but_one_in_a_hundred_of_the_others():
    others = list(range(200))
    assert Attack.of("x", [197.0, 197.5, 198.0, 1000.0], others).tpr == 0.75
    # With fewer than 100 none of them may be taken for a member.
    assert Attack.of("x", [9.0, 10.0], list(range(10))).tpr == 0.5


def test_equal_scores_are_no_attack():
    attack = Attack.of("x", [1.0] * 30, [1.0] * 30)
    assert (attack.auc, attack.tpr) == (0.5, 0.0)


def test_exposure_is_the_number_of_bits_that_a_guesser_is_spared():
    others = [float(loss) for loss in range(1, 1024)]
    assert exposure(0.5, others) == 10.0
    assert exposure(512.5, others) == pytest.approx(math.log2(1024 / 513))
    assert exposure(5000.0, others) == 0.0
