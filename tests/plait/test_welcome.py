import re
from pathlib import Path

import pytest

from plait.config import RunConfig, config_from_table
from plait.errors import PeerError
from plait.settle import settle
from plait.wire.welcome import WELCOME_KEYS, config_from_welcome, welcome_table

SERVERS_OWN = {
    "out": "/srv/secret/run", "publish": "http://10.0.0.7:8000", "init-adapter": "/srv/secret/adapter",
    "data": "/srv/secret.jsonl", "reference": "central", "device": "cuda:3",
}  # fmt: skip


def test_nothing_of_the_servers_own_is_told():
    told = welcome_table({**RunConfig().to_table(), **SERVERS_OWN})
    assert not set(told) & set(SERVERS_OWN)
    assert not [value for value in told.values() if isinstance(value, str) and ("secret" in value or "10.0" in value)]


def test_a_base_in_a_directory_of_the_servers_is_told_by_its_name_alone(tmp_path):
    (tmp_path / "my-model").mkdir()
    assert welcome_table({"base": str(tmp_path / "my-model")}) == {"base": "my-model"}
    assert welcome_table({"base": "org/model"}) == {"base": "org/model"}


def test_the_protocols_document_lists_the_keys_that_may_be_told():
    document = (Path(__file__).parents[2] / "proto" / "README.md").read_text(encoding="utf-8")
    (paragraph,) = re.findall(
        r"The run configuration may have these keys of `plait simulate`(.+?)\n\n", document, re.DOTALL
    )
    listed = set(re.findall(r"`([^`]+)`", paragraph))
    assert listed == WELCOME_KEYS


@pytest.mark.parametrize("base", ["~1", "~nobody-here/model", "x" * 5000, "a\0b"])
def test_a_base_that_can_be_no_path_is_told_as_it_is(base):
    assert welcome_table({"base": base}) == {"base": base}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"rule": "rolora"},
        {"rounds-mode": "async"},
        {"method": "lora_xs", "rank": 32, "rule": "fedsb", "personalize": 0.0},
        {"labels": "a,b", "client-ranks": "2,4,8", "rule": "flexlora", "rounds": 7, "eval-every": 7},
        {"server-optimizer": "fedadam", "learning-rate": 0.5},
        {"server-optimizer": "none"},
        {"dp": "client", "dp-epsilon": 8.0, "clients": 50},
        {"secure-aggregation": True, "clients": 5, "weighting": "equal"},
        {"epochs": 1.0, "rounds": 2, "lr-schedule": "cosine", "lr-schedule-over": "round", "packing": False},
        {"eval-metrics": "loss,perplexity"},
    ],
)
def test_a_client_works_out_the_same_settings_as_the_server(given):
    config = config_from_table(given)
    settled = settle(config)
    for table in (config.to_table(), settled.config.to_table()):
        assert settle(config_from_welcome(welcome_table(table))).plan.settings == settled.plan.settings


@pytest.mark.parametrize("key", ["out", "init-adapter", "data", "device", "keep-updates", "learning_rate", "lr", ""])
def test_any_other_key_is_refused(key):
    with pytest.raises(PeerError, match="does not accept"):
        config_from_welcome({key: 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [("rank", 0), ("rank", "8"), ("alpha", float("nan")), ("correction", 1), ("correction", "fedprox:mu")],
)
def test_a_value_that_cannot_be_is_the_servers_fault(key, value):
    with pytest.raises(PeerError, match=f"server's run configuration: {key} is"):
        config_from_welcome({key: value})


def test_clients_are_told_of_privacy_only_where_the_run_has_some():
    keys = {"dp", "dp-epsilon", "dp-delta", "dp-clip"}
    assert not keys & set(welcome_table(RunConfig().to_table()))
    told = welcome_table(config_from_table({"dp": "client", "dp-epsilon": 8.0}).to_table())
    assert keys <= set(told)
    assert config_from_welcome(told).dp_epsilon == 8.0


@pytest.mark.parametrize(
    "given",
    [
        {"server-optimizer": "none"},
        {"server-optimizer": "fedadam"},
    ],
)
def test_clients_are_told_of_the_servers_step_only_where_they_measure_slopes_for_it(given):
    plain = welcome_table(settle(config_from_table(given)).config.to_table())
    assert "server-optimizer" not in plain
    told = welcome_table(settle(RunConfig()).config.to_table())
    assert told.pop("server-optimizer") == "line_search"
    assert not settle(config_from_welcome(told)).plan.settings.measures_slope


def test_clients_are_told_whether_the_run_has_masks():
    assert "secure-aggregation" not in welcome_table(RunConfig().to_table())
    told = welcome_table(config_from_table({"secure-aggregation": True}).to_table())
    assert config_from_welcome(told).secure_aggregation
