"""The settings of a submitted run: they come over a network, or from an untrusted journal."""

from __future__ import annotations

import json
from typing import cast

from plait.api.serving import CLIENTS_SETTINGS
from plait.config import RunConfig, Scalar, config_from_table
from plait.errors import ConfigError

_MOST_CONFIG_CHARACTERS = 16384
_OF_THE_MACHINE = ("publish", "callbacks", *CLIENTS_SETTINGS)
"""Settings that name files or code of the machine that reads them."""


def checked(config_json: str) -> RunConfig:
    """The settings of a run that is being submitted.

    Raises:
        ConfigError: they are not valid.
    """
    if len(config_json) > _MOST_CONFIG_CHARACTERS:
        raise ConfigError(f"settings have {len(config_json)} characters, expected at most {_MOST_CONFIG_CHARACTERS}")
    try:
        table: object = json.loads(config_json)
    except (ValueError, RecursionError) as error:
        raise ConfigError("settings are not JSON, expected one object") from error
    if not isinstance(table, dict):
        raise ConfigError("settings are not a JSON object, expected one")
    config = config_from_table(cast("dict[str, Scalar]", table), where="submitted settings")
    config = naming_nothing(config.model_copy(update={"out": ""}))
    from plait.settle import settle

    settle(config)
    return config


def naming_nothing(config: RunConfig) -> RunConfig:
    """Settings without those of clients, which a simulation's file names; a journal may be untrusted, too.

    Raises:
        ConfigError: they name files, code or other servers of the machine.
    """
    config = config.model_copy(update=dict.fromkeys(CLIENTS_SETTINGS, ""))
    of_features = (key for feature in config.wanted for key in feature.leads_out)
    for key in (*_OF_THE_MACHINE, *of_features):
        if getattr(config, key) not in ("", "none"):
            name = key.replace("_", "-")
            raise ConfigError(f"{name} is given, expected none in a submitted run: it names files or code of a machine")
    return config
