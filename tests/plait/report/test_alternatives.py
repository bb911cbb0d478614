from __future__ import annotations

import pytest

from plait.report.alternatives import Alternative, all_alternatives, savings


def test_every_alternative_is_bits_times_parameters_each_way() -> None:
    parameters, trainable, client_rounds = 1000, 80, 7
    alternatives = all_alternatives(full_model_bytes=4 * parameters, trainable_parameters=trainable)
    bits = [32 * trainable, 16 * trainable, 8 * trainable, 4 * trainable, 32 * parameters]
    assert [one.sent_bytes(client_rounds) for one in alternatives.values()] == [2 * client_rounds * b / 8 for b in bits]


def test_savings_are_how_many_times_more_the_alternative_sends() -> None:
    assert savings(Alternative("model", 500), client_rounds=3, sent_bytes=100) == pytest.approx(2 * 500 * 3 / 100)


def test_nothing_sent_saves_nothing_that_can_be_stated() -> None:
    assert savings(Alternative("model", 500), client_rounds=3, sent_bytes=0) is None
    assert savings(Alternative("model", 500), client_rounds=0, sent_bytes=10) is None
