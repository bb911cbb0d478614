from __future__ import annotations

import pytest

from plait.config import config_from_table
from plait.errors import ConfigError
from plait.features.corrections.run import corrected
from plait.rounds.client_way import ClientWay
from plait.rounds.memory import IRREPLACEABLE
from plait.rounds.saying import InTheOpen
from plait.settle import settle


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("none", (False, 0.0, 0.0)),
        ("scaffold", (True, 0.0, 0.0)),
        ("feddyn", (False, 0.1, 0.1)),
        ("feddyn:alpha=0.5", (False, 0.5, 0.5)),
        ("fedprox:mu=2", (False, 0.0, 2.0)),
    ],
)
def test_a_correction_is_one_of_three_and_has_its_strength(text, values):
    settings = settle(config_from_table({"correction": text})).plan.settings
    assert (settings.scaffold, settings.feddyn, settings.proximal) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fedprix", "correction is 'fedprix', expected one of .*did you mean 'fedprox'"),
        ("fedprox:alpha=1", "correction 'fedprox' is given the option 'alpha', expected one of mu"),
        ("feddyn:alpha=0", "alpha of correction 'feddyn' is '0', expected greater than 0"),
        ("scaffold:mu=1", "correction 'scaffold' is given the option 'mu', it has no options"),
    ],
)
def test_a_correction_that_is_not_there_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        config_from_table({"correction": text})


@pytest.mark.parametrize("given", ["auto", "none", "feddyn:share=0.25"])
def test_the_server_does_its_part_of_feddyn(given):
    table = {"correction": "feddyn", "clients": 8, "clients-per-round": 2, "server-optimizer": given}
    assert settle(config_from_table(table)).config.server_optimizer == "feddyn:share=0.25"


def test_another_step_of_the_server_does_not_go_with_feddyn():
    with pytest.raises(ConfigError, match="correction is 'feddyn' and server-optimizer is 'sgd:lr=2', expected"):
        settle(config_from_table({"correction": "feddyn", "server-optimizer": "sgd:lr=2"}))


def test_what_a_correction_carries_over_is_kept_where_a_kill_cannot_take_it():
    way = corrected(ClientWay(InTheOpen("ann", None)))
    assert {hook.key for hook in way.outer} <= IRREPLACEABLE
