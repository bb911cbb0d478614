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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plait.config import RunConfig
from plait.errors import ConfigError, did_you_mean
from plait.ledger.fleet import Fleet, FleetDescribed, FleetDevice
from plait.rounds.run_plan import RunContext
from plait.settings.choice import hours_of
from plait.settings.table import read_config_table
from plait.system.files import at_home
from plait.system.text import escaped

_Speed = Annotated[float, Field(gt=0, le=1e12)]


class _Kind(BaseModel):
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
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    device: Annotated[list[_Kind], Field(min_length=1, max_length=10_000)]
    notice_s: Annotated[float, Field(ge=0, le=1e9)] = 300.0
    time_evaluations: bool = True


def load_fleet(path: str, *, base_parameters: int) -> Fleet:
    """The fleet of a file, with the figures of its profiles filled in."""
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
    table = read_config_table(at_home(path))
    try:
        return _File.model_validate(table)
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
        raise ConfigError(f"{where}: battery_wh is given without watts: give both, or the battery never runs out")
    hours_of(kind.hours)
    return FleetDevice(**cast("dict[str, Any]", figures))


# Of a frozen base of N parameters: 2 N forward, and 2 N backward for the gradients of activations (arXiv 2001.08361,
# appendix B, without the gradients of weights).
_FLOPS_PER_TOKEN_AND_PARAMETER = 4.0


@dataclass(frozen=True)
class Profile:
    """Figures of a kind of device: assumed, not measured.

    Attributes:
        peak_flops: operations per second, dense, in 16 bits unless its source differs.
        utilisation: the part of the peak that fine-tuning reaches: a guess.
    """

    peak_flops: float
    utilisation: float
    up_mbps: float
    down_mbps: float
    watts: float

    def tokens_per_s(self, base_parameters: int) -> float:
        """Training speed of adapters on a base of so many parameters."""
        return self.peak_flops * self.utilisation / (_FLOPS_PER_TOKEN_AND_PARAMETER * base_parameters)


# Networks: Speedtest Global Index, September 2020, mean of mobile or of fixed broadband; 10 Gbit/s assumed for H100.
PROFILES: Mapping[str, Profile] = {
    # Apple A15 Neural Engine, 15.8 TOPS (Apple, 14 September 2021); 4 W assumed
    "phone": Profile(15.8e12, 0.05, 11.22, 35.96, 4.0),
    # Jetson AGX Orin 64GB, 60 W; a quarter of the GPU's 170 sparse INT8 TOPS (NVIDIA technical brief, 2022)
    "orin": Profile(42.5e12, 0.2, 45.74, 85.73, 60.0),
    # Apple M2, 10-core GPU, 3.6 TFLOPS in float32 (Apple, 6 June 2022); 30 W of its adapter
    "laptop": Profile(3.6e12, 0.3, 45.74, 85.73, 30.0),
    # GeForce RTX 4090, FP16 with FP32 sums, 450 W (NVIDIA Ada whitepaper, 2022)
    "4090": Profile(165.2e12, 0.3, 45.74, 85.73, 450.0),
    # H100 SXM, BF16 without sparsity, 700 W (NVIDIA data sheet, 2023)
    "H100": Profile(989.4e12, 0.3, 10_000.0, 10_000.0, 700.0),
}
"""The built-in profiles: assumed, not measured."""


def opens(config: RunConfig, opening: RunContext) -> FleetDescribed | None:
    """The event of a run's devices; None if they are recorded, `ConfigError` if the run began with others."""
    now = FleetDescribed(fleet=load_fleet(config.fleet, base_parameters=opening.base_parameters))
    began = next((event for event in opening.events if isinstance(event, FleetDescribed)), None)
    if began is None:
        return now
    if began.fleet != now.fleet:
        raise ConfigError(
            f"fleet '{config.fleet}' has changed since the run began; put the old file back, or begin a new run with "
            "another --out"
        )
    return None


def check(config: RunConfig, *, simulates: bool) -> None:
    """Refuse devices of clients that have their own, and a file that cannot be."""
    if not simulates:
        raise ConfigError(f"fleet is '{config.fleet}', but clients of a network have devices of their own")
    load_fleet(config.fleet, base_parameters=1)  # profiles' speeds follow once the base is known
