"""The settings of where an adapter begins."""

from __future__ import annotations

import pytest

from plait.config import config_from_table, to_toml
from plait.errors import ConfigError
from plait.settings.toml import read_config_table
from plait.settle import settle


def test_adapters_to_begin_with_have_a_weight_each() -> None:
    config = config_from_table({"init-adapter": "runs/a, b=0.5,odd=name,c=-1"})
    assert [(str(path), weight) for path, weight in config.init_adapters] == [
        ("runs/a", 1.0), ("b", 0.5), ("odd=name", 1.0), ("c", -1.0),
    ]  # fmt: skip


def test_a_beginning_that_means_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="init-adapter is 'a=0', expected another weight of 'a' than 0"):
        config_from_table({"init-adapter": "a=0"})


def test_they_stand_in_the_table_of_the_adapter(tmp_path) -> None:
    config = config_from_table({"adapter": {"init-adapter": "runs/a", "dropout": 0.1}})
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert to_toml(config).count("[adapter]") == 1
    assert config_from_table(read_config_table(tmp_path / "config.toml")) == config


@pytest.mark.parametrize(("given", "anew"), [({}, True), ({"init-adapter": "a"}, False)])
def test_clients_derive_the_adapter_unless_it_goes_on(given: dict[str, object], anew: bool) -> None:
    assert settle(config_from_table({"base": "tiny", **given})).plan.starts_anew is anew
