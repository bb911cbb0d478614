import pytest

from plait.rounds.evaluation import ClientLoss, mean_loss


def test_the_mean_is_over_tokens_and_not_over_clients():
    fields = mean_loss({"b": ClientLoss(2.0, 300, 3), "a": ClientLoss(1.0, 100, 1)})
    assert fields["loss"] == pytest.approx((2.0 * 300 + 1.0 * 100) / 400)
    assert fields["by_client"] == {"a": {"loss": 1.0, "tokens": 100}, "b": {"loss": 2.0, "tokens": 300}}
    assert list(fields["by_client"]) == ["a", "b"]
    assert "accuracy" not in fields


def test_accuracy_is_the_part_of_all_examples_that_was_right():
    fields = mean_loss({"a": ClientLoss(1.0, 4, 4, correct=1), "b": ClientLoss(1.0, 6, 6, correct=6)})
    assert fields["accuracy"] == pytest.approx(7 / 10)
    assert fields["by_client"]["a"]["accuracy"] == pytest.approx(1 / 4)
