"""A masked round whose clients are in groups, and a server that is stopped in it."""

import pytest

from tests.features.secagg.test_one_member import away, begin_in_groups, stage_of

STAGES = ("shares", "train", "signatures", "unmasking")


@pytest.mark.slow
def test_a_server_that_is_stopped_in_each_stage_of_a_round_of_groups_goes_on_to_the_same_bits(
    federate, fake_model, monkeypatch
):
    whole, stopped = (begin_in_groups(federate, fake_model, monkeypatch, away) for _ in range(2))
    expected, left, asked = whole.run(), list(STAGES), 0

    class Stopped(Exception):
        pass

    def stop(task):
        nonlocal asked
        asked += bool(left) and (task.round, stage_of(task)) == (1, left[0])
        if asked == 10:
            asked = 0
            del left[0]
            raise Stopped

    stopped.channel.before = stop
    for _ in STAGES:
        with pytest.raises(Stopped):
            stopped.run()
    assert stopped.run().adapter.digest() == expected.adapter.digest()
    sums = [(event["round"], event["purpose"]) for event in stopped.of_kind("sum_unmasked")]
    assert sums.count((1, "train")) == sums.count((2, "train")) == 3
