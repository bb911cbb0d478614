import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from plait.ledger.events import ClientScore
from plait.rounds.evaluation import ClientLoss, SequenceLosses, mean_loss, wilson


def test_the_mean_is_over_tokens_and_not_over_clients():
    fields = mean_loss({"b": ClientLoss(2.0, 300, 3), "a": ClientLoss(1.0, 100, 1)})
    assert fields.loss == pytest.approx((2.0 * 300 + 1.0 * 100) / 400)
    assert fields.by_client == {
        "a": ClientScore(loss=1.0, tokens=100, sequences=1),
        "b": ClientScore(loss=2.0, tokens=300, sequences=3),
    }
    assert list(fields.by_client) == ["a", "b"]
    assert fields.accuracy is None


def test_accuracy_is_the_part_of_all_examples_that_was_right():
    fields = mean_loss({"a": ClientLoss(1.0, 4, 4, correct=1), "b": ClientLoss(1.0, 6, 6, correct=6)})
    assert fields.accuracy == pytest.approx(7 / 10)
    assert fields.accuracy_interval == pytest.approx(wilson(7, 10))
    assert fields.by_client["a"].accuracy == pytest.approx(1 / 4)
    assert fields.by_client["a"].accuracy_interval == pytest.approx(wilson(1, 4))


@pytest.mark.parametrize(("correct", "examples"), [(15, 16), (1, 10), (0, 7), (40, 40), (512, 1000)])
def test_the_ends_of_an_accuracy_lie_where_the_proportion_is_just_not_rejected(correct, examples):
    z, found = NormalDist().inv_cdf(0.975), correct / examples
    for end in wilson(correct, examples):
        # Where the end is 0 or 1 the proportion itself is.
        assert abs(found - end) == pytest.approx(z * math.sqrt(end * (1 - end) / examples), abs=1e-7)


def test_the_error_of_a_mean_over_sequences_of_one_length_is_that_of_their_means():
    losses = (20.0, 24.0, 31.0, 18.0, 27.0)
    told = SequenceLosses(losses, (10,) * 5).since(None)
    means = np.array(losses) / 10
    assert told.loss == pytest.approx(means.mean())
    assert told.loss_error == pytest.approx(means.std(ddof=1) / math.sqrt(5))
    assert told.margin == pytest.approx(2.776 * told.loss_error, rel=0.005)  # Student's with 4 degrees of freedom


def test_the_error_of_a_mean_over_sequences_of_any_length_is_what_drawing_them_again_gives():
    generator = np.random.default_rng(3)
    counts = generator.integers(5, 100, 60)
    sums = counts * generator.normal(2.0, 0.4, 60) + generator.normal(0, 3, 60)
    told = SequenceLosses(tuple(sums), tuple(map(int, counts))).since(None)
    drawn = [generator.integers(0, 60, 60) for _ in range(4000)]
    again = np.std([sums[rows].sum() / counts[rows].sum() for rows in drawn])
    assert told.loss_error == pytest.approx(again, rel=0.06)


def test_a_change_is_measured_sequence_by_sequence():
    before = SequenceLosses((20.0, 30.0, 40.0, 50.0), (10,) * 4, digest="x")
    after = SequenceLosses((18.0, 27.0, 38.0, 47.0), (10,) * 4, digest="x").since(before)
    assert after.change == pytest.approx(-0.25)
    assert after.change_error == pytest.approx(np.std([0.2, 0.3, 0.2, 0.3], ddof=1) / 2)
    assert after.change_error < after.loss_error / 10


@pytest.mark.parametrize("other", [{"digest": "y"}, {"counts": (10, 10, 10, 9)}])
def test_a_change_between_other_sequences_is_none(other):
    after = SequenceLosses((18.0, 27.0, 38.0, 47.0), (10,) * 4, digest="x")
    told = after.since(replace(after, **other))
    assert (told.change, told.change_error) == (None, None)
    assert told == after.since(None)


def test_of_a_few_sequences_only_the_mean_is_told():
    before = SequenceLosses((1.0, 2.0, 3.0), (1, 1, 1))
    told = before.since(before)
    assert (told.loss_error, told.change_error, told.margin) == (None, None, None)
    assert told.change == 0


def test_the_change_of_a_federation_is_that_of_its_mean():
    first = {"a": ClientLoss(2.0, 300, 16, loss_error=0.1), "b": ClientLoss(3.0, 100, 16, loss_error=0.1)}
    last = {
        "a": ClientLoss(1.5, 300, 16, loss_error=0.1, change=-0.5, change_error=0.01),
        "b": ClientLoss(2.9, 100, 16, loss_error=0.1, change=-0.1, change_error=0.02),
    }
    fields = mean_loss(last)
    assert fields.change == pytest.approx(fields.loss - mean_loss(first).loss)
    assert fields.change_margin < fields.loss_margin / 5
    assert mean_loss(first).change is None


def test_an_interval_by_cluster_holds_where_one_by_sequence_does_not():
    generator = np.random.default_rng(5)
    held = {True: 0, False: 0}
    for _ in range(400):
        # Twelve documents of 2 to 14 sequences, which resemble each other more than those of others.
        sizes = generator.integers(2, 15, 12)
        owners = np.repeat(np.arange(12), sizes)
        losses = 20 + generator.normal(0, 4, 12)[owners] + generator.normal(0, 2, len(owners))
        for by_cluster in held:
            clusters = tuple(map(int, owners)) if by_cluster else ()
            told = SequenceLosses(tuple(losses), (10,) * len(losses), clusters=clusters).since(None)
            held[by_cluster] += abs(told.loss - 2.0) <= told.margin
    assert 0.92 <= held[True] / 400 <= 0.985
    assert held[False] / 400 < 0.8


def test_clusters_of_one_sequence_each_are_worth_as_many_and_few_have_no_interval():
    losses, counts = (20.0, 24.0, 31.0, 18.0, 27.0, 22.0), (10,) * 6
    alone = SequenceLosses(losses, counts, clusters=(4, 9, 2, 0, 7, 5)).since(None)
    assert alone.clusters == 6
    assert alone.loss_error == pytest.approx(SequenceLosses(losses, counts).since(None).loss_error)
    few = SequenceLosses(losses, counts, clusters=(0, 0, 0, 1, 2, 3)).since(None)
    assert (few.loss_error, few.margin, few.clusters) == (None, None, 3)
