import pytest

from plait.config import config_from_table
from plait.errors import ConfigError
from plait.ledger.watch import Watch
from plait.rounds.buffer import Buffer, buffer_of
from plait.settle import settle


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("async:9", "rounds-mode is 'async:9' and 8 clients are at work at once, expected at most as many"),
        ("async:1", "rounds-mode is 'async:1', expected at least 2 updates"),
        ("sync:4", "expected sync, async, or async:K"),
        ("async:0", "expected sync, async, or async:K"),
    ],
)
def test_a_buffer_has_two_updates_of_clients_at_work_at_least(mode, message):
    with pytest.raises(ConfigError, match=message):
        config_from_table({"rounds-mode": mode})


def test_asynchronous_rounds_follow_from_how_many_clients_are_at_work():
    settled = settle(config_from_table({"rounds-mode": "async", "clients": 40, "clients-per-round": 20}))
    assert buffer_of(settled.config) == Buffer(size=5, max_staleness=40, at_work=20)
    assert (settled.plan.folds, settled.plan.quorum, settled.plan.measures_pace) == (5, 3, True)
    assert (settled.plan.watch, settled.config.own_share) == (Watch("accepted"), 0.0)
    assert not settled.plan.settings.carry_moments
    assert settled.config.rounds_mode == "async:5"
    assert settle(settled.config).config == settled.config
    assert buffer_of(config_from_table({"rounds-mode": "async:3"})) == Buffer(size=3, max_staleness=30, at_work=8)
