"""What is hidden from whom: differential privacy, and sums under masks."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from plait.settings.table import MOST_OF_GROUP, SettingsTable, number_or
from plait.settings.traits import Stated, Trait
from plait.system.text import printable

LEAST_CLIENTS = 3
"""The fewest clients of a masked sum: in a sum of two each client knows the other's part."""
_OF_BOTH = ("dp", ("client", "record"))


class Privacy(SettingsTable, table="privacy", heading="Privacy", optional=True):
    """What is hidden, from whom, and how well."""

    within: ClassVar = {"dp_epsilon": _OF_BOTH, "dp_clip": _OF_BOTH}

    dp: Literal["off", "client", "record"] = "off"
    """differential privacy of records or clients; record hides from everyone, including the server, what any one
    sequence of a client changed; client hides what any one client's data changed from everyone but the server, with
    secure-aggregation also from the server, and needs hundreds of clients to be useful (plait estimate says)
    """
    dp_epsilon: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """epsilon of the whole run, never exceeded; sets the noise"""
    dp_delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """delta of the whole run; 0 means 1e-5, or of clients 1 / (10 clients) if that is smaller"""
    dp_clip: Annotated[
        Annotated[float, Field(gt=0, le=1e6)] | Literal["adaptive"], BeforeValidator(number_or("adaptive"))
    ] = "adaptive"
    """norm that a client's update, or a record's gradient, is clipped to; adaptive follows the median of the updates,
    and scales all gradients to one norm"""

    @model_validator(mode="after")
    def _check_epsilon(self) -> Self:
        if self.dp != "off" and not self.dp_epsilon:
            raise ValueError(f"dp-epsilon is 0 and dp is '{self.dp}', expected an epsilon: the noise follows from it")
        return self

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse a delta within which a client could be shown."""
        del cohort
        if self.dp == "client" and self.dp_delta * clients >= 1:
            raise ValueError(
                f"dp-delta is {self.dp_delta:g} and clients is {clients}, expected less than 1 / clients = "
                f"{1 / clients:g}: with more, showing one client in full would be within the guarantee"
            )

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.dp == "off":
            return
        needs = {Trait.WAITS: "a client's part is charged by rounds", Trait.EQUAL_STEPS: "noise is for equal parts"}
        removes = {
            Trait.FIGURES: "no noise covers them",
            Trait.LOSSES: "no noise covers them",
            Trait.SLOPES: "steps of private runs measure none",
        }
        if self.dp == "client":
            needs |= {Trait.ONE_RANK: "how far a client moves the sum depends on its rank", Trait.LINEAR: ""}
            removes |= {Trait.SINGLE_UPDATES: "noise covers their clipped sum alone"}
        else:
            needs[Trait.OWN_LOSS] = "noise needs the gradient of each record by itself"
            removes[Trait.WHOLE_GRADIENT] = "each record's is clipped, to dp-clip"
        yield self.states("dp", needs=needs, removes=removes)


class Groups(SettingsTable, table="groups", heading="Groups", optional=True):
    """Whose records belong together."""

    within: ClassVar = {"dp_unit": ("dp", ("record",)), "dp_group_records": ("dp", ("record",))}

    group: Annotated[str, Field(max_length=100)] = ""
    """column that names whom a record belongs to, such as patient: no group has records on both sides of what is held
    out, and dp record protects all of a group's records; a client may give another column of its own"""
    dp_unit: Literal["auto", "record", "group"] = "auto"
    """what dp record protects as a whole; auto is group where one is given"""
    dp_group_records: Annotated[int, Field(ge=1, le=MOST_OF_GROUP)] = 4
    """most records of one group in a step, drawn anew for each"""

    @property
    def private_group(self) -> str:
        """The column of what is private as a whole; empty where each record is by itself, or nothing is private."""
        return self.group if self.dp_unit != "record" and getattr(self, "dp", "off") == "record" else ""

    @field_validator("group")
    @classmethod
    def _check_group(cls, given: str) -> str:
        if given != printable(given).strip():
            raise ValueError("expected the name of a column: printable, without spaces around it")
        return given

    @model_validator(mode="after")
    def _check_unit(self) -> Self:
        for name in ("dp_unit", "dp_group_records"):
            if self.is_given(name) and self.dp_unit != "record" and not self.group:
                raise ValueError(f"{self.states(name)} and no group, expected group: the column that names groups")
        return self


class Masks(SettingsTable, table="privacy", heading="Privacy", optional=True):
    """Whether the server sees sums alone."""

    secure_aggregation: bool = False
    """hide every client's update, losses and counts from the server, which learns only their sums"""

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse rounds and evaluations of fewer clients than a masked sum has."""
        del clients, cohort
        for name in ("clients", "clients_per_round", "eval_clients") if self.secure_aggregation else ():
            if 0 < getattr(self, name) < LEAST_CLIENTS:
                raise ValueError(
                    f"{self.states(name)} and secure-aggregation is true, expected at least {LEAST_CLIENTS}: in a sum "
                    "of two each client knows the other's part"
                )

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.secure_aggregation:
            yield self._masked()

    def _masked(self) -> Stated:
        needs = {
            Trait.WAITS: "a masked sum needs all its clients at once",
            Trait.EQUAL_STEPS: "no client's weight is known",
            Trait.ONE_RANK: "only updates of one shape have a sum",
            Trait.LINEAR: "",
            Trait.VOUCHED: "else a client cannot tell real clients from ones that the server made up",
        }
        removes = {
            Trait.SINGLE_UPDATES: "the server sees their masked sum alone",
            Trait.FIGURES: "the server sees their masked sums alone",
            Trait.RELEASED: "a client that has sent a masked update is in the sum",
        }
        return self.states("secure_aggregation", needs=needs, removes=removes)
