"""What a contract says: its clauses as TOML, and whether a run is within them. Knows no signature."""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from plait.config import Scalar
from plait.errors import ConfigError, PolicyError
from plait.rounds.ledger import canonical
from plait.trust.secret_file import read_small

if TYPE_CHECKING:
    from plait.features.gate.conditions import Condition

_Names = tuple[str, ...]


class Contract(BaseModel):
    """The clauses; each refusal names one.

    Attributes:
        members: names of the clients that may sign.
        needed: signatures that put it in force (k of n).
        until: the last moment that it holds, with its zone.
        purposes: what runs are for, in words; clients cannot check them.
        rules: that combine updates; none for any.
        least_clients: fewest in a round, or in a sum under masks.
        masked: whether runs must have secure aggregation.
        unit: of differential privacy, ``client`` or ``record``; empty where none is asked for.
        epsilon: over all runs of the contract together.
        release_if: conditions that every run must have, or stricter ones; empty for none.
        submitters: operators who may submit runs; none for any. A standing server's to enforce.
        recipients: operators and observers who may fetch a run's files; none for any. The same.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=False, populate_by_name=True, alias_generator=lambda n: n.replace("_", "-")
    )

    members: Annotated[_Names, Field(min_length=1)]
    needed: Annotated[int, Field(ge=1)]
    until: datetime
    purposes: _Names = ()
    bases: Annotated[_Names, Field(min_length=1)]
    methods: Annotated[_Names, Field(min_length=1)] = ("lora",)
    objectives: Annotated[_Names, Field(min_length=1)] = ("sft",)
    rules: _Names = ()
    least_clients: Annotated[int, Field(ge=1)] = 1
    masked: bool = False
    unit: str = ""
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    release_if: str = ""
    submitters: _Names = ()
    recipients: _Names = ()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if len(set(self.members)) < len(self.members):
            raise ValueError("members names one of them twice")
        if self.needed > len(self.members):
            raise ValueError(
                f"needed is {self.needed} and members are {len(self.members)}, expected no more than those"
            )
        if self.least_clients > len(self.members):
            raise ValueError(f"least-clients is {self.least_clients}, and members are {len(self.members)}")
        if self.until.tzinfo is None:
            raise ValueError("until has no zone, expected one such as 2027-12-31T00:00:00Z")
        if self.unit not in ("", "client", "record"):
            raise ValueError(f"unit is '{self.unit}', expected client or record")
        if bool(self.unit) != (self.epsilon > 0) or bool(self.unit) != (self.delta > 0):
            raise ValueError("unit, epsilon and delta go together: all of them, or none")
        if self.release_if:
            try:
                _conditions(self.release_if)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of its clauses, whatever the file looks like; what members sign."""
        return hashlib.sha256(canonical(self.model_dump(mode="json"))).hexdigest()

    def check_run(self, config: Mapping[str, Scalar], *, now: datetime | None = None) -> None:
        """Refuse a run outside it.

        Args:
            now: by default the clock's.

        Raises:
            PolicyError: with the clause.
        """
        given: dict[str, Any] = dict(config)
        moment = now or datetime.now(UTC)
        _clause(moment <= self.until, "until", f"it is {moment:%Y-%m-%d %H:%M} UTC", f"{self.until:%Y-%m-%d %H:%M %Z}")
        for clause, key, allowed in (
            ("bases", "base", self.bases),
            ("methods", "method", self.methods),
            ("objectives", "objective", self.objectives),
            ("rules", "rule", self.rules),
        ):
            found = str(given.get(key, "")).partition(":")[0] if key != "base" else str(given.get(key, ""))
            _clause(not allowed or found in allowed, clause, f"{key} is '{found}'", f"one of {', '.join(allowed)}")
        cohort = int(given.get("clients-per-round", 0)) or int(given.get("clients", 0))
        least = math.ceil(cohort * float(given.get("quorum", 1.0)))
        _clause(
            least >= self.least_clients,
            "least-clients",
            f"a round may have {least} (quorum)",
            f"at least {self.least_clients}",
        )
        _clause(not self.masked or bool(given.get("secure-aggregation")), "masked", "the run is not masked", "masks")
        dp = str(given.get("dp", "off"))
        _clause(not self.unit or dp == self.unit, "unit", f"dp is '{dp}'", f"'{self.unit}'")
        if self.unit:
            stated = float(given.get("dp-epsilon", 0.0)) > 0
            _clause(stated, "epsilon", "the run states no dp-epsilon", "one, which counts against the contract's")
            delta = float(given.get("dp-delta", 0.0))
            _clause(
                0 < delta <= self.delta, "delta", f"dp-delta is {delta:g}", f"more than 0 and at most {self.delta:g}"
            )
        stated_if = str(given.get("release-if", ""))
        announced = _conditions(stated_if) if stated_if and self.release_if else ()
        for asked in _conditions(self.release_if) if self.release_if else ():
            holds = any(each.is_as_strict_as(asked) for each in announced)
            got = f"release-if is '{stated_if}'" if stated_if else "the run has no release-if"
            _clause(holds, "release-if", got, f"'{asked.text}', or stricter")

    def check_person(self, act: str, name: str) -> None:
        """Refuse what an operator or observer may not ask of a server.

        Args:
            act: ``submit`` a run, or ``fetch`` one's files.

        Raises:
            PolicyError: with the clause.
        """
        clause, named = ("submitters", self.submitters) if act == "submit" else ("recipients", self.recipients)
        _clause(not named or name in named, clause, f"'{name}' asks", f"one of {', '.join(named)}")


def _conditions(text: str) -> Sequence[Condition]:
    """What a release is judged by.

    Raises:
        ConfigError: they are not valid, or this installation has no gate.
    """
    try:
        from plait.features.gate.conditions import parsed
    except ImportError as error:
        raise ConfigError("release-if needs the feature gate, which is not there") from error
    return parsed(text)


def _clause(holds: bool, clause: str, got: str, expected: str) -> None:
    if not holds:
        raise PolicyError(f"outside the contract, clause {clause}: {got}, expected {expected}")


def read_contract(path: Path) -> Contract:
    """The contract in a file.

    Raises:
        ConfigError: it is none, or contradicts itself.
        MachineError: it cannot be read.
    """
    if not path.is_file():
        raise ConfigError(f"there is no contract '{path}', expected a TOML file of clauses such as members and bases")
    try:
        return Contract.model_validate(tomllib.loads(read_small(path).decode()))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"contract '{path}': {f'{key}: ' if key else ''}{said}") from error
    except ValueError as error:
        raise ConfigError(f"contract '{path}' is not TOML, expected clauses such as members and bases") from error
