"""How a run is served: the options of ``plait server`` other than the run's settings, kept as ``RUN/server.toml``."""

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, cast

from plait.errors import ConfigError, MachineError
from plait.report.summary import write_report
from plait.system.files import write_atomically
from plait.system.text import read_toml

if TYPE_CHECKING:
    from plait.rounds.run_directory import RunDirectory

CLIENTS_SETTINGS = ("data", "columns", "split", "partition", "reference")
"""Settings of a simulated run that in a served one are the clients' own."""


class ServingOptions(TypedDict, total=False):
    """Where and how a program serves; see `plait.Server`."""

    listen: str
    kit: str | PathLike[str] | None
    insecure: bool
    metrics: str
    grace_s: float


@dataclass(frozen=True)
class Serving:
    """Where and how a run is served."""

    listen: str
    kit: str
    """Directory of the server's kit, absolute; empty without TLS."""
    metrics: str
    """Address of the Prometheus page; empty for none."""
    grace_s: float
    """Seconds a client may be disconnected before its task is given up."""
    run_number: int
    """Number of the run, the same after every restart."""

    @classmethod
    def of(cls, given: ServingOptions, *, file: Path | None = None) -> Self:
        """What somebody gave; with the `file` of a run, which keeps its number if it has begun."""
        kit, insecure = given.get("kit"), given.get("insecure", False)
        if insecure and kit is not None:
            raise ConfigError("kit and insecure are both given; give one of them")
        if not insecure and kit is None:
            raise ConfigError(
                "neither kit nor insecure is given; give one of them: make a kit with `plait provision DIR "
                "--clients NAMES`, or use insecure to try it on this machine"
            )
        before = load_serving(file) if file else None
        return cls(
            listen=given.get("listen", "127.0.0.1:0"),
            kit="" if kit is None else str(Path(kit).absolute()),
            metrics=given.get("metrics", ""),
            grace_s=given.get("grace_s", 30.0),
            run_number=before.run_number if before else new_run_number() if file else 0,
        )

    @property
    def kit_directory(self) -> Path | None:
        """The kit; None without TLS."""
        return Path(self.kit) if self.kit else None

    def save(self, path: Path) -> None:
        """Write it as TOML."""
        lines = (f"{key.replace('_', '-')} = {json.dumps(value)}\n" for key, value in vars(self).items())
        write_atomically(path, "".join(lines).encode())

    @property
    def named(self) -> dict[str, str]:
        """The files and addresses that it names, by key."""
        named = {"listen": self.listen, "kit": self.kit, "metrics": self.metrics}
        return {key: value for key, value in named.items() if value or key == "listen"}


def load_serving(path: Path) -> Serving | None:
    """Read what `Serving.save` wrote; None if there is nothing."""
    try:
        table = cast("dict[str, Any]", read_toml(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MachineError(f"cannot read '{path}': {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"'{path}' is not TOML, expected the file that `plait server` wrote") from error
    kinds = {"listen": str, "kit": str, "metrics": str, "grace-s": float, "run-number": int}
    if {key: type(value) for key, value in table.items()} != kinds:
        raise ConfigError(f"'{path}' has other keys or types, expected {', '.join(kinds)} as plait wrote them")
    return Serving(**{key.replace("-", "_"): value for key, value in table.items()})


def new_run_number() -> int:
    """A number for a new run, positive and below 2^63."""
    return secrets.randbits(62) + 1


def check_no_data(settings: Mapping[str, object]) -> None:
    """Refuse settings that are the clients' own."""
    for key in CLIENTS_SETTINGS:
        if settings.get(key):
            raise ConfigError(f"{key} is given, expected none: clients bring their own data")


def conclude(directory: "RunDirectory") -> None:
    """Write the report; remove the raw answers, which are folded into the adapter by now."""
    shutil.rmtree(directory.inbox, ignore_errors=True)
    write_report(directory.path)
