"""What the ledger of a run that goes on holds already, so that nothing is told or asked for twice.

Knows only events; what they mean for the next round is the coordinator's affair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from plait.adapters import Json
from plait.rounds.channel import Purpose
from plait.rounds.ledger import Event


def weight_ratio_in(events: Sequence[Event]) -> float:
    """How many times the median a weight may be in a run; infinite in one that began before there was a bound."""
    return cast("float", events[0].get("weight_ratio", math.inf))


@dataclass(frozen=True)
class Recorded:
    """What the ledger of a run that is gone on with holds already.

    Attributes:
        begun: whether the run has begun: enough clients were there once.
        finished: the last round that it calls finished.
        evaluated: the last round that it has losses of; -1 for none.
        received: rounds and clients of the updates that it has.
        evaluations: rounds and clients of the losses that it has.
        clients: the clients that it knows.
        misfits: rounds, clients and reasons of the refusals that it has.
    """

    begun: bool
    finished: int
    evaluated: int
    received: frozenset[tuple[int, str]]
    evaluations: frozenset[tuple[int, str]]
    clients: frozenset[str]
    misfits: frozenset[tuple[int, str, str]]

    @classmethod
    def of(cls, events: Sequence[Event]) -> Recorded:
        """All that these events say of it."""

        def rounds(kind: str) -> list[int]:
            return [cast("int", event["round"]) for event in events if event["event"] == kind]

        return cls(
            begun=any(event["event"] in ("evaluated", "round_started") for event in events),
            finished=max(rounds("round_finished"), default=0),
            evaluated=max(rounds("evaluated"), default=-1),
            received=frozenset(
                (cast("int", event["round"]), cast("str", event["client"]))
                for event in events
                if event["event"] == "update_received"
            ),
            evaluations=frozenset(
                (cast("int", event["round"]), cast("str", event["client"]))
                for event in events
                if event["event"] == "reply_received" and event["purpose"] == Purpose.EVALUATE.value
            ),
            clients=frozenset(
                cast("str", client["client"])
                for event in events
                if event["event"] == "clients_described"
                for client in cast("list[dict[str, Json]]", event["clients"])
            ),
            misfits=frozenset(
                (cast("int", event["round"]), cast("str", event["client"]), cast("str", event["reason"]))
                for event in events
                if event["event"] == "update_refused"
            ),
        )
