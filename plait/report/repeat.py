"""The command that repeats a run, from the settings in its ledger."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from plait.config import RunConfig
from plait.text import printable

if TYPE_CHECKING:
    from plait.adapters import Json  # brings numpy along

# The output directory belongs to the run, not to its repetition.
_NOT_REPEATED = frozenset({"out"})
# Clients set these themselves, or they mean nothing without data.
_NOT_THE_SERVERS = frozenset({"data", "columns", "split", "partition", "reference"})
_SERVED_NAMES: Mapping[str, str] = {"clients": "min-clients"}
_SERVER = "plait server --kit plait-server"
_FLOWER = "flwr run ."


def is_deployed(config: Mapping[str, Json]) -> bool:
    """Whether clients brought their own data: then the server's settings name none."""
    return config.get("data") == ""


def repeat_command(config: Mapping[str, Json], superlink_data: str | None = None) -> tuple[str, ...]:
    """The command line that repeats the run, quoted for a shell: the command, then one option after another.

    Options at their defaults are left out; the report lists every setting. A deployed run is served again,
    with the kit that `plait provision` calls ``plait-server``; one on Flower's SuperLink is begun again there, in a
    checkout.

    Args:
        superlink_data: what a run on Flower's SuperLink names as ``data``; None for every other run.
    """
    if superlink_data is not None:
        given = {**config, "data": superlink_data, "out": "DIR"}
        return (_FLOWER, *(_pair(key, value) for key, value in given.items() if value is not None and value != ""))
    deployed = is_deployed(config)
    left_out = _NOT_REPEATED | (_NOT_THE_SERVERS if deployed else frozenset())
    names = _SERVED_NAMES if deployed else {}
    given = {key: value for key, value in config.items() if key not in left_out and value is not None and value != ""}
    options = [_option(names.get(key, key), value) for key, value in (given if deployed else _differing(given)).items()]
    return (_SERVER if deployed else "plait simulate", *options)


def _differing(given: Mapping[str, Json]) -> dict[str, Json]:
    """The settings that are not at their defaults."""
    usual = RunConfig().to_table()
    return {key: value for key, value in given.items() if key not in usual or usual[key] != value}


def _option(key: str, value: Json) -> str:
    key = printable(key)
    if isinstance(value, bool):
        return shlex.quote(f"--{key}" if value else f"--no-{key}")
    text = printable(value) if isinstance(value, str) else json.dumps(value)
    # A value that begins with a dash would be read as an option.
    words = [f"--{key}={text}"] if text.startswith("-") else [f"--{key}", text]
    return shlex.join(words)


def _pair(key: str, value: Json) -> str:
    """A setting as `flwr run` reads it: a TOML pair, whose text ends at the first quotation mark that began it."""
    text = printable(value) if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str):
        quote = "'" if set(text) & set('"\\') else '"'
        text = f"{quote}{text}{quote}"
    return shlex.join(("-c", f"{printable(key)}={text}"))
