"""Settings of who takes part in a round, and how long it waits."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from plait.settings.table import Table


class Cohort(Table):
    """Who takes part in a round, and how long it waits."""

    table: ClassVar[str] = "cohort"
    heading: ClassVar[str] = "Who takes part in a round"

    clients_per_round: Annotated[int, Field(ge=0)] = 0
    """clients sampled per round; 0 means all"""
    over_selection: Annotated[float, Field(ge=0, le=10)] = 0.0
    """extra clients to ask per round, as a fraction of those wanted"""
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.5
    """fraction of the wanted updates below which a round is retried"""
    deadline_s: Annotated[float, Field(ge=0)] = 0.0
    """seconds a round waits for updates; 0 means no limit while clients show progress"""
    step_budget: Literal["equal", "speed"] = "equal"
    """steps of a client in a round: local-steps for all, or, by the speed that rounds before have measured, so many
    that all answer together: local-steps on average, 1 to 4 times as many each"""
    rounds_mode: Literal["sync", "async"] = "sync"
    """sync: a round waits for its cohort; async: clients train whenever they are free, and a round is a buffer of
    updates that is folded once it is full"""
    buffer: Annotated[int, Field(ge=0)] = 0
    """with rounds-mode async, updates per round; 0 means a quarter of the clients at work, two at least"""
    tree: str = ""
    """servers below this one, such as 10x100: 10 regions, each the server of 100 clients and a client of this one, to
    which it sends the exact sum of their updates; by default none"""
    fleet: str = ""
    """TOML file with the devices of a simulated fleet: the run then goes by a virtual clock, on which downloads,
    training and uploads take as long as there"""
