"""A grid of settings: which runs a sweep consists of.

A file of settings, as for ``--config``, with up to two parts more:

    base = "tiny"                       # for all runs, unless a value below says otherwise
    seeds = [0, 1, 2]                   # every combination once with each

    [grid]                              # all combinations of these values
    rule = ["fedavg", "flexlora"]

    [grid.scenario."few alike"]         # a name for several settings that change together
    clients = 3
    partition = "iid"

    [grid.scenario."many skewed"]
    clients = 20
    partition = "dirichlet:0.1"
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import cast

from plait.config import RunConfig, key_named, without_tables
from plait.errors import ConfigError
from plait.report.wording import clean
from plait.settings.toml import read_config_table

Settings = Mapping[str, object]

MOST_CELLS = 100_000
"""More runs than these are a mistake in the file."""

_LONGEST_NAME = 80
_UNSAFE = re.compile(r"[^A-Za-z0-9.]+")
_APART = frozenset({"out", "seed"})


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: of its directory; follows from its place in the grid alone.
        place: the value of every axis, as text; without the seed.
        settings: all that the file gives for it, seed included.
    """

    name: str
    place: Mapping[str, str]
    seed: int
    settings: Settings

    @property
    def label(self) -> str:
        """What it has in common with the runs that differ in the seed only."""
        return ", ".join(f"{axis} {value}" for axis, value in self.place.items()) or "all"


@dataclass(frozen=True)
class Grid:
    """The runs of a sweep.

    Attributes:
        cells: all with the first seed, then all with the next; runs on the same base and data stay together.
        axes: names of what differs, besides the seed.
    """

    cells: tuple[Cell, ...]
    axes: tuple[str, ...]


def read_grid(source: str | Path | Settings, *, given: Settings | None = None, seeds: Sequence[int] = ()) -> Grid:
    """Read the file, or take its table.

    Args:
        source: the path of the file, or what such a file says.
        given: settings in place of those that are common to all runs.
        seeds: in place of the file's.

    Raises:
        ConfigError: it cannot be read, a setting is unknown, or a part of it is not valid.
    """
    where = "grid" if isinstance(source, Mapping) else str(source)
    table = dict(source if isinstance(source, Mapping) else read_config_table(Path(source)))
    apart = {key: table.pop(key) for key in ("grid", "seeds") if key in table}
    table = {**without_tables(table, where=where), **apart}
    axes = _axes(_table(table.pop("grid", {}), f"{where}: grid"), f"{where}: [grid]")
    its_seeds = _seeds(table.pop("seeds", None), where)
    for key, value in table.items():
        if isinstance(value, list):
            raise ConfigError(f"{where}: {key} is a list; put lists under [grid]")
    seeds = tuple(seeds) or its_seeds
    common = {key_named(key, where=where, beside=("seeds", "grid")): value for key, value in table.items()}
    override = {key_named(key, where=where): value for key, value in (given or {}).items()}
    places = [_merged(axis, where) for axis in product(*axes.values())]
    for key in {key for _, settings in places for key in settings} & override.keys():
        raise ConfigError(f"{key} is {override[key]!r} for all runs, but [grid] of {where} has values of it")
    common |= override
    names = tuple(dict.fromkeys(axis for place, _ in places for axis in place))
    if "seed" in names and seeds:
        raise ConfigError(f"{where}: seeds and seed are both given; give one of them")
    if not seeds:
        seeds = (cast("int", common.get("seed", 0)),)
    if len(places) * len(seeds) > MOST_CELLS:
        raise ConfigError(f"{where}: makes {len(places) * len(seeds):,} runs, expected at most {MOST_CELLS:,}")
    cells = [
        _cell(place, {**{key: value for key, value in common.items() if key not in _APART}, **settings}, seed)
        for seed in seeds
        for place, settings in places
    ]
    for name, count in Counter(cell.name for cell in cells).items():
        if count > 1:
            raise ConfigError(f"{where}: run '{name}' is there twice, expected different values")
    together: dict[str, list[Cell]] = {}
    for cell in cells:
        together.setdefault(json.dumps([cell.settings.get("base"), cell.settings.get("data")]), []).append(cell)
    ordered = tuple(cell for part in together.values() for cell in part)
    return Grid(ordered, tuple(name for name in names if name != "seed"))


def out_of(source: str | Path | Settings) -> Path:
    """Where a sweep writes unless it is told: ``out`` of the file, or a directory of ``runs`` named after the file."""
    table = source if isinstance(source, Mapping) else read_config_table(Path(source))
    out = table.get("out", "")
    if not isinstance(out, str):
        raise ConfigError(f"out is {out!r}, expected the path of a directory")
    return Path(out or Path("runs") / ("sweep" if isinstance(source, Mapping) else Path(source).stem))


_Choice = tuple[Mapping[str, str], Settings]
"""The places of one value of an axis, as text, and its settings."""


def _axes(table: Settings, where: str) -> dict[str, list[_Choice]]:
    axes: dict[str, list[_Choice]] = {}
    for given, values in table.items():
        if isinstance(values, dict):
            axes[given] = _bundles(given, cast("Settings", values), where)
            continue
        key = key_named(given, where=where)
        if key == "out":
            raise ConfigError(f"{where}: out is given, expected it above, once for the whole sweep")
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: {given} is {values!r}, expected a list of values")
        axes[key] = [({key: _text(value)}, {key: _fitting(key, value)}) for value in cast("list[object]", values)]
    return axes


def _bundles(axis: str, table: Settings, where: str) -> list[_Choice]:
    """Named settings that change together."""
    choices: list[_Choice] = []
    for name, settings in table.items():
        inside = f"{where[:-1]}.{axis}.{name}]"
        found = {
            key_named(key, where=inside): value for key, value in _table(settings, f"{where}: {axis}.{name}").items()
        }
        choices.append(({axis: clean(name, limit=60)}, {key: _fitting(key, value) for key, value in found.items()}))
    return choices


def _merged(choices: Sequence[_Choice], where: str) -> _Choice:
    place: dict[str, str] = {}
    settings: dict[str, object] = {}
    for its_place, its_settings in choices:
        for key in its_settings.keys() & settings.keys():
            raise ConfigError(f"{where}: {key} is given by two parts of [grid]; give one of them")
        place |= its_place
        settings |= its_settings
    return place, settings


def _cell(place: Mapping[str, str], settings: Settings, seed: int) -> Cell:
    found = settings.get("seed", seed)
    if not isinstance(found, int) or isinstance(found, bool):
        raise ConfigError(f"seed is {found!r}, expected a whole number")
    place = {axis: value for axis, value in place.items() if axis != "seed"}
    return Cell(_name(place, found), place, found, {**settings, "seed": found})


def _name(place: Mapping[str, str], seed: int) -> str:
    """A name for a directory; with a digest where the values have characters that it cannot have."""
    parts = [f"{axis}-{value}" for axis, value in place.items()]
    name = "_".join(_UNSAFE.sub("-", part).strip("-.") for part in [*parts, f"seed-{seed}"])
    if len(name) <= _LONGEST_NAME and all(_UNSAFE.sub("-", part).strip("-.") == part for part in parts):
        return name
    digest = hashlib.sha256(json.dumps([dict(place), seed]).encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9].rstrip('-._')}-{digest}"


def _fitting(key: str, value: object) -> object:
    """Numbers where a setting is text, such as ``wire = [1, 0.5]``, become that text."""
    is_text = RunConfig.model_fields[key.replace("-", "_")].annotation is str
    return _text(value) if is_text and isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _text(value: object) -> str:
    if isinstance(value, dict):
        return clean(" ".join(f"{key}={_text(each)}" for key, each in cast("Settings", value).items()))
    return f"{value:g}" if isinstance(value, float) else clean(str(value))


def _seeds(value: object, where: str) -> tuple[int, ...]:
    if value is None:
        return ()
    seeds = cast("list[object]", value) if isinstance(value, list) else [value]
    found = tuple(seed for seed in seeds if isinstance(seed, int) and not isinstance(seed, bool))
    if not found or len(found) < len(seeds):
        raise ConfigError(f"{where}: seeds is {value!r}, expected a list of whole numbers")
    return found


def _table(value: object, where: str) -> Settings:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} is {value!r}, expected a table")
    return cast("Settings", value)
