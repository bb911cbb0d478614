"""What the run says of itself, for operators, read from its ledger as it grows."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from plait.adapters import Json
from plait.rounds.ledger import Follower
from server.status import RunSummary

_ROUNDS_TIMED = 64
"""So many of the last rounds say how long those to come will take."""


class LedgerSummary:
    """Called, it gives the newest `RunSummary`; each call reads only what was appended since the last one.

    Args:
        ledger: of the run; need not be there yet.
        name: of the run.
        rounds: how many there are to be.
        deadline_s: of each round; None for none.
    """

    def __init__(self, ledger: Path, *, name: str, rounds: int, deadline_s: float | None) -> None:
        self._ledger = Follower(ledger)
        self._summary = RunSummary(run=name, rounds=rounds, deadline_s=deadline_s)
        self._lock = threading.Lock()

    def __call__(self) -> RunSummary:
        """The newest summary."""
        with self._lock:
            for event in self._ledger.new_events():
                self._take(event)
            return self._summary

    def _take(self, event: Mapping[str, Json]) -> None:
        now = self._summary
        match event["event"]:
            case "run_started" | "resumed":
                now = replace(now, state="waiting for clients", unfit={})
            case "clients_gathered":
                now = replace(now, state="between rounds" if now.round else "evaluating the base")
            case "clients_described":
                here = {client["client"] for client in cast("list[dict[str, str]]", event["clients"])}
                now = replace(now, unfit={name: why for name, why in now.unfit.items() if name not in here})
            case "client_turned_away":
                client = str(event.get("client") or f"node {event['node']}")
                why = str(event.get("reason", "")), str(event["detail"])
                now = replace(now, unfit={**now.unfit, client: why})
            case "round_started":
                cohort = tuple(cast("list[str]", event["cohort"]))
                now = replace(now, state="training", round=cast("int", event["round"]), cohort=cohort, lost={})
            case "waiting_for_clients":
                now = replace(now, state="waiting for clients", wanted=cast("int", event["wanted"]))
            case "update_refused" if event["reason"] != "need-full":
                now = replace(now, lost={**now.lost, cast("str", event["client"]): cast("str", event["reason"])})
            case "update_received":
                now = replace(now, lost={name: why for name, why in now.lost.items() if name != event["client"]})
            case "client_replaced":
                now = replace(now, cohort=(*now.cohort, cast("str", event["by"])))
            case "round_missed":
                now = replace(now, state="below the quorum, trying again")
            case "round_finished":
                seconds = (*now.round_s, cast("float", event["wall_s"]))[-_ROUNDS_TIMED:]
                now = replace(now, state="evaluating", done=now.done + 1, round_s=seconds, cohort=())
            case "evaluated":
                now = replace(now, state="between rounds")
            case "run_finished":
                now = replace(now, state="finished")
            case "interrupted":
                now = replace(now, state="interrupted")
            case _:
                pass
        self._summary = now
