"""A fleet of simulated devices, from a TOML file: how fast each kind trains, sends and receives, and when it is there.

    [[device]]
    profile = "phone"     # figures that are not given come from here
    count = 6
    hours = "22-6"        # on from 22:00 to 6:00; the run starts at midnight
    dropout = 0.1         # chance that it fails during a training task

    [[device]]
    name = "workstation"
    tokens_per_s = 9000
    up_mbps = 40
    down_mbps = 100

Clients take the devices in the order of the file, each kind `count` times, and from the start again. `notice_s` and
`time_evaluations` may stand before the first device. The figures of profiles are assumed, not measured: what makers
state as peaks, times a guess at the part of it that training reaches. Give measured figures where you have them.
"""

from __future__ import annotations

import tomllib
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plait.errors import ConfigError, did_you_mean
from plait.features.fleets.events import Fleet, FleetDevice
from plait.files import at_home
from plait.policy import hours_of
from plait.report.profiles import PROFILES
from plait.text import escaped

_MOST_BYTES = 1 << 20
_Speed = Annotated[float, Field(gt=0, le=1e12)]


class _Kind(BaseModel):
    """A ``[[device]]`` of the file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1, max_length=64)] = ""
    profile: str = ""
    count: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    tokens_per_s: _Speed | None = None
    up_mbps: _Speed | None = None
    down_mbps: _Speed | None = None
    hours: str = ""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    watts: Annotated[float, Field(ge=0, le=1e6)] | None = None
    battery_wh: Annotated[float, Field(gt=0, le=1e9)] | None = None


class _File(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    device: Annotated[list[_Kind], Field(min_length=1, max_length=10_000)]
    notice_s: Annotated[float, Field(ge=0, le=1e9)] = 300.0
    time_evaluations: bool = True


def load_fleet(path: str, *, base_parameters: int) -> Fleet:
    """The fleet of a file, with the figures of its profiles filled in.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value is missing or out of bounds.
    """
    file = _read(path)
    kinds = tuple(
        _device(kind, f"'{path}': device {number}", base_parameters) for number, kind in enumerate(file.device, 1)
    )
    return Fleet(devices=kinds, notice_s=file.notice_s, time_evaluations=file.time_evaluations)


def device_of(fleet: Fleet, node: int) -> FleetDevice:
    """The device of the client with this number."""
    place = node % sum(device.count for device in fleet.devices)
    for device in fleet.devices:
        if place < device.count:
            return device
        place -= device.count
    raise ValueError("the fleet has no device")


def _read(path: str) -> _File:
    try:
        with at_home(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror or error}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"'{path}' has more than {_MOST_BYTES} bytes, expected a list of devices")
    try:
        return _File.model_validate(tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(escaped(f"'{path}' is not TOML: {error}")) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        hint = ""
        if first["type"] == "extra_forbidden":
            known = _Kind.model_fields if first["loc"][0] == "device" else _File.model_fields
            hint = did_you_mean(str(first["loc"][-1]), known)
        raise ConfigError(escaped(f"'{path}': {key}: {first['msg']}{hint}")) from error


def _device(kind: _Kind, where: str, base_parameters: int) -> FleetDevice:
    profile = PROFILES.get(kind.profile)
    if kind.profile and profile is None:
        hint = did_you_mean(kind.profile, PROFILES) or f", expected one of: {', '.join(PROFILES)}"
        raise ConfigError(escaped(f"{where}: there is no profile '{kind.profile}'{hint}"))
    known: dict[str, Any] = {}
    if profile:
        known = {"tokens_per_s": profile.tokens_per_s(base_parameters)}
        known |= {key: getattr(profile, key) for key in ("up_mbps", "down_mbps", "watts")}
    given = {key: value for key, value in kind.model_dump().items() if value is not None and key != "profile"}
    figures = {**known, **given, "name": kind.name or kind.profile}
    for key in ("name", "tokens_per_s", "up_mbps", "down_mbps"):
        if not figures.get(key):
            raise ConfigError(f"{where}: {key} is missing; give it there, or a profile: {', '.join(PROFILES)}")
    if kind.battery_wh is not None and figures.get("watts") is None:
        raise ConfigError(f"{where}: battery_wh is given, expected watts too: without them a battery never runs out")
    hours_of(kind.hours)
    return FleetDevice(**cast("dict[str, Any]", figures))
