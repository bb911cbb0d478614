"""A masked round whose clients are in groups, and a server that is stopped in it."""

import pytest

from tests.features.secagg.test_one_member import away, begin_in_groups, stage_of


@pytest.mark.parametrize("stage", ["shares", "train", "signatures", "unmasking"])
def test_a_server_that_is_stopped_in_a_round_of_groups_goes_on_to_the_same_bits(
    federate, fake_model, monkeypatch, stage
):
    whole, stopped = (begin_in_groups(federate, fake_model, monkeypatch, away) for _ in range(2))
    expected, seen = whole.run(), []

    class Stopped(Exception):
        pass

    def stop(asked):
        seen.extend([asked.client] * ((asked.round, stage_of(asked)) == (1, stage)))
        if len(seen) == 10:
            seen.append("")
            raise Stopped

    stopped.channel.before = stop
    with pytest.raises(Stopped):
        stopped.run()
    assert stopped.run().adapter.digest() == expected.adapter.digest()
    sums = [(event["round"], event["purpose"]) for event in stopped.of_kind("sum_unmasked")]
    assert sums.count((1, "train")) == sums.count((2, "train")) == 3
