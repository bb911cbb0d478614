"""A feature from outside plait that is asked at each place where it may change a run, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated, ClassVar

import typer

from plait.feature import Feature
from plait.objective import Objective
from plait.policy import Words
from plait.report.estimate import Planned
from plait.report.table import Table
from plait.rounds.broadcasts import StartingPoint
from plait.rounds.events import Event
from plait.settings.table import Table as Settings
from plait.traits import Trait

ASKED: set[str] = set()


class Witness(Settings):
    """Whether it is there."""

    table: ClassVar[str] = "witness"
    heading: ClassVar[str] = "Witness"

    witness_on: bool = False
    """be asked"""
    witness_file: str = ""
    """a place outside the run"""


class Witnessed(Event):
    """The run was opened before it."""

    event = "witnessed"


def nothing(*_given: object, **_named: object) -> None:
    """Has nothing to say."""


def first(given: object, *_more: object, **_named: object) -> object:
    """Leaves what it is given as it is."""
    return given


def witness(run: Annotated[str, typer.Argument()]) -> None:
    """Say which run it is."""
    print(f"witness of {run}")


SHOWN = Table(title="Witnessed", headings=("what",), rows=(("nothing happened",),))
ANSWERS: dict[str, Callable[..., object]] = {
    **dict.fromkeys(("check", "ending", "afterwards", "card", "limits", "verifies"), nothing),
    **dict.fromkeys(("way", "client_way", "plan", "links"), first),
    "settles": lambda config: {},
    "tasks": lambda config: {},
    "starts": lambda run: StartingPoint(),
    "opens": lambda config, opening: Witnessed(),
    "screen": lambda config, update_bytes: first,
    "together": lambda clients: 0,
    "simulated": lambda simulation, stop: simulation.direct(0, simulation.run.config.clients, stop),
    "shares": lambda config, load: load(config.model_copy(update={"witness_on": False})),
    "beside": lambda settings, run, quiet: nullcontext(),
    "shows": lambda view: SHOWN,
    "plans": lambda settled, largest, size, records: Planned(tables=(SHOWN,), figures={"witnessed": size}),
    "proposes": lambda run: Words(promised=("a witness is there",)),
    "spent": lambda journal, account: 0.0,
    "node": lambda settings, opening: opening,
    "objectives": lambda text: Objective(),
}


def __getattr__(name: str) -> Callable[..., object]:
    def asked(*given: object, **named: object) -> object:
        ASKED.add(seam)
        return ANSWERS[seam](*given, **named)

    seam = name.removeprefix("asked_")
    if seam not in ANSWERS:
        raise AttributeError(name)
    return asked


PLACES = {seam: f"witness:asked_{seam}" for seam in ANSWERS}
FEATURE = Feature(
    name="witness",
    help="asked everywhere, changing nothing",
    settings="witness:Witness",
    welcomed=("witness_on",),
    shown=("witness_on",),
    leads_out={"witness_file": ("",)},
    takes={Trait.FACTORS: "a witness has seen none"},
    events={"witnessed": "witness:Witnessed"},
    verbs={"witness": "witness:witness"},
    **{**PLACES, "limits": {"witness": PLACES["limits"]}, "objectives": {"witnessed": PLACES["objectives"]}},
)
