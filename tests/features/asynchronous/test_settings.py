import pytest

from plait.config import config_from_table
from plait.errors import ConfigError
from plait.features.asynchronous.buffer import Buffer
from plait.features.asynchronous.way import buffer_of
from plait.settle import settle


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"buffer": 9}, "buffer is 9 and 8 clients are at work at once, expected at most as many"),
        ({"buffer": 1}, "buffer is 1, expected at least 2"),
        (
            {"rounds-mode": "sync", "buffer": 4},
            "buffer is 4 and rounds-mode is 'sync', expected buffer 0 or rounds-mode",
        ),
    ],
)
def test_a_buffer_has_two_updates_of_clients_at_work_at_least(given, message):
    with pytest.raises(ConfigError, match=message):
        config_from_table({"rounds-mode": "async", **given})


def test_asynchronous_rounds_follow_from_how_many_clients_are_at_work():
    settled = settle(config_from_table({"rounds-mode": "async", "clients": 40, "clients-per-round": 20}))
    assert buffer_of(settled.config) == Buffer(size=5, max_staleness=40, at_work=20)
    assert (settled.plan.folds, settled.plan.quorum, settled.plan.measures_pace) == (5, 3, True)
    assert (settled.config.keep, settled.config.own_share) == ("last", 0.0)
    assert not settled.plan.settings.carry_moments
    assert settle(settled.config).config == settled.config


def test_nothing_is_left_of_rounds_that_wait_after_all():
    assert config_from_table({"rounds-mode": "sync", "buffer": 0}) == config_from_table({})
