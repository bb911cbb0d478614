"""A run as the page shows it: one JSON document, and for every event of the ledger the merge patch that changes it.

The document is what all patches make of an empty one, so whoever has it as of one event and applies the patches of the
later ones has all of it. It holds figures, never text for people; `plait.features.page.schema` describes it. Knows no
file.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from plait.adapters import Json
from plait.features.page.merge import Patch, join, merge
from plait.rounds import events
from plait.rounds.patience import late_after_s
from plait.rounds.run_progress import RunProgress
from plait.rounds.run_view import Traffic
from plait.rounds.validate import Reason

MOST_REFUSALS = 200
"""Refusals that the document keeps, the newest; it counts all."""

_STATES: Mapping[str, str] = {
    Reason.NO_ANSWER: "away",
    Reason.LATE: "late",
    Reason.SILENT: "late",
    Reason.SLOW: "late",
    Reason.STALE: "late",
}
"""States of a client whose update will not count, by reason; any other reason is a refusal."""


@dataclass
class _Client:
    state: str = ""
    sent_bytes: Traffic = field(default_factory=Traffic)
    updates: int = 0
    updated_round: int = -1
    given: float = 0.0
    is_at_work: bool = False


class Board:
    """Folds events one by one.

    Attributes:
        document: of the run so far; ``seq`` is the newest event in it, -1 before the first.
        progress: where the run stands.
    """

    def __init__(self) -> None:
        self.document: dict[str, Json] = {"seq": -1}
        self.progress = RunProgress()
        self._clients: dict[str, _Client] = {}
        self._is_async = False
        self._cohort: set[str] = set()
        self._took_s: list[float] = []
        self._sent = Traffic()
        self._by_round: dict[int, Traffic] = {}
        self._updates = 0
        self._refused = 0
        self._refusals: list[str] = []
        self._interruptions = 0
        self._worked_s = 0.0
        self._time = 0.0
        self._broken = ""

    def take(self, event: events.Event, *, broken: str = "") -> Patch:
        """Process the next event.

        Args:
            event: of the ledger.
            broken: the first break of the ledger's chain so far, in a sentence; empty if there is none.

        Returns:
            What it changes in the document, which has changed by now.
        """
        if self._time and not isinstance(event, events.Resumed):
            self._worked_s += max(0.0, event.time - self._time)
        self._time = event.time
        self.progress = self.progress.after(event)
        patch: Patch = {"seq": event.seq, "time": event.time, "hash": event.hash, "worked_s": round(self._worked_s, 1)}
        if broken != self._broken:
            patch["broken"] = self._broken = broken
        if self.progress.state != self.document.get("state"):
            patch["state"] = self.progress.state
        if self.progress.eta_s != self.document.get("eta_s"):
            patch["eta_s"] = self.progress.eta_s
        patch = join(patch, self._of(event))
        merge(self.document, patch)
        return patch

    def end(self, *, broken: str) -> Patch:
        """The patch in place of the next event, if that cannot be read."""
        seq = self.document["seq"]
        patch: Patch = {"seq": seq + 1 if isinstance(seq, int) else 0, "broken": broken}
        merge(self.document, patch)
        return patch

    def _of(self, event: events.Event) -> Patch:
        match event:
            case events.RunStarted():
                self._is_async = event.is_async
                return _started(event)
            case events.ClientsDescribed():
                described: Patch = {each.client: self._described(each) for each in event.clients}
                return {"clients": described}
            case events.ClientTurnedAway():
                return self._turned_away(event)
            case events.RoundStarted():
                return self._round_started(event)
            case events.ClientReplaced():
                self._cohort.add(event.by)
                clients: Patch = {event.client: self._to("away", event.client), event.by: self._chosen(event.by)}
                return {"round": {"cohort": len(self._cohort)}, "clients": clients}
            case events.RoundMissed():
                return _round(event.round, {"missed": event.attempt})
            case events.Broadcast():
                return self._broadcast(event)
            case events.ReplyReceived():
                return self._replied(event)
            case events.UpdateReceived():
                return self._update(event)
            case events.UpdateRefused():
                return self._refuse(event)
            case events.RoundFinished():
                return self._round_finished(event)
            case events.Evaluated():
                return _evaluated(event)
            case events.StepTakenBack():
                taken: Patch = {
                    "worse": event.worse,
                    "scale": event.scale,
                    "kind": event.taken_back,
                    "text": event.sentence,
                }
                return _round(event.round, {"taken_back": taken})
            case events.EndedEarly():
                return {"ended_early": event.sentence}
            case events.Reference():
                return {
                    "references": {
                        event.kind: {"loss": event.held_out_loss, "by_round": list(event.held_out_loss_by_round)}
                    }
                }
            case events.PublishFailed():
                return {"publish_failed": event.detail}
            case events.Interrupted():
                self._interruptions += 1
                return {"interruptions": self._interruptions}
            case events.RunFinished():
                return self._finished(event)
            case _:
                return self._of_feature(event)

    def _replied(self, event: events.ReplyReceived) -> Patch:
        patch = self._count(event.round, event.client, Traffic(uplink_bytes=event.uplink_bytes))
        if event.purpose != "evaluate":
            return patch
        state = "training" if self._client(event.client).is_at_work else "ready"
        return join(patch, {"clients": {event.client: self._to(state, event.client)}})

    def _client(self, name: str) -> _Client:
        return self._clients.setdefault(name, _Client())

    def _to(self, state: str, name: str, detail: str | None = None) -> Patch:
        self._client(name).state = state
        return {"state": state, "since": self._time, "detail": detail}

    def _chosen(self, name: str) -> Patch:
        return {**self._to("chosen", name), "given": None, "answered": None, "train_s": None}

    def _asked(self, name: str) -> Patch:
        """Of a round's cohort: an asynchronous round begins when its clients are at work, a synchronous one before."""
        if not self._is_async:
            return self._chosen(name)
        client = self._client(name)
        client.state, client.is_at_work = "training", True
        return {"state": "training", "since": client.given, "detail": None, "answered": None, "train_s": None}

    def _described(self, client: events.DescribedClient) -> Patch:
        known = self._clients.get(client.client)
        state = {} if known and known.state not in ("", "refused", "away") else self._to("ready", client.client)
        return {
            **state,
            "examples": client.train_examples,
            "tokens": client.train_tokens,
            "held_out": client.held_out_examples,
            "rank": client.rank,
        }

    def _turned_away(self, event: events.ClientTurnedAway) -> Patch:
        detail = f"{event.reason}: {event.detail}" if event.detail else event.reason
        patch: Patch = {"clients": {event.name: self._to("refused", event.name, detail)}}
        return join(patch, self._refusal(event.seq, None, event.name, event.reason, event.detail))

    def _refusal(self, seq: int, number: int | None, client: str, reason: str, detail: str) -> Patch:
        self._refused += 1
        entry: Patch = {"time": self._time, "client": client, "reason": reason, "detail": detail}
        if number is not None:
            entry["round"] = number
        changed: Patch = {str(seq): entry}
        self._refusals.append(str(seq))
        if len(self._refusals) > MOST_REFUSALS:
            changed[self._refusals.pop(0)] = None
        return {"refusals": changed, "refused": self._refused}

    def _round_started(self, event: events.RoundStarted) -> Patch:
        rested = [name for name in self._cohort.difference(event.cohort) if self._client(name).state != "refused"]
        self._cohort, self._took_s = set(event.cohort), []
        clients: Patch = {name: self._asked(name) for name in event.cohort}
        clients |= {name: {**self._to("ready", name), "given": None, "answered": None} for name in rested}
        now: Patch = {"number": event.round, "started": self._time, "cohort": len(self._cohort), "received": 0}
        patch: Patch = {"round": {**now, "late_after_s": None}, "clients": clients}
        return join(patch, _round(event.round, {"started": self._time, "cohort": len(self._cohort)}))

    def _broadcast(self, event: events.Broadcast) -> Patch:
        patch = self._count(event.round, event.client, Traffic(downlink_bytes=event.downlink_bytes))
        if event.purpose == "train":
            client = self._client(event.client)
            client.given, client.is_at_work = self._time, self._is_async
            state: Patch = {**self._to("training", event.client), "given": self._time, "answered": None}
            if self._is_async and event.round == self.progress.round:
                self._cohort.add(event.client)
                patch = join(patch, {"round": {"cohort": len(self._cohort)}})
            return join(patch, {"clients": {event.client: state}})
        if event.purpose == "evaluate":
            return join(patch, {"clients": {event.client: self._to("evaluating", event.client)}})
        return patch

    def _update(self, event: events.UpdateReceived) -> Patch:
        client = self._client(event.client)
        client.is_at_work = False
        if client.updated_round != event.round:
            client.updated_round = event.round
            client.updates += 1
            self._updates += 1
        if client.given:
            bisect.insort(self._took_s, max(0.0, self._time - client.given))
        patch = self._count(event.counted_in, event.client, Traffic(uplink_bytes=event.uplink_bytes))
        state: Patch = {
            **self._to("done", event.client),
            "answered": self._time,
            "train_s": event.train_s,
            "train_loss": event.train_loss,
            "learning_rate": event.learning_rate,
            "updates": client.updates,
            "updated_round": event.round,
        }
        # In an asynchronous run nobody waits for the slow.
        late_s = None if self._is_async else late_after_s(self._took_s)
        now: Patch = {"received": len(self._took_s), "late_after_s": None if late_s is None else round(late_s, 3)}
        return join(patch, {"clients": {event.client: state}, "round": now, "updates": self._updates})

    def _refuse(self, event: events.UpdateRefused) -> Patch:
        patch = self._count(event.round, event.client, Traffic(uplink_bytes=event.uplink_bytes))
        self._client(event.client).is_at_work = False
        state = _STATES.get(event.reason, "refused")
        detail = f"{event.why}: {event.detail}" if event.detail else event.why
        refusal = self._refusal(event.seq, event.round, event.client, event.reason, event.detail)
        return join(patch, {"clients": {event.client: self._to(state, event.client, detail)}, **refusal})

    def _count(self, number: int, client: str, traffic: Traffic) -> Patch:
        if not traffic.total_bytes:
            return {}
        self._sent += traffic
        each, whole = self._client(client), self._by_round.get(number, Traffic()) + traffic
        each.sent_bytes += traffic
        self._by_round[number] = whole
        return {**_bytes(self._sent), "clients": {client: _bytes(each.sent_bytes)}, **_round(number, _bytes(whole))}

    def _round_finished(self, event: events.RoundFinished) -> Patch:
        values: Patch = {
            "received": event.received,
            "refused": event.refused,
            "update_norm": event.update_norm,
            "wall_s": event.wall_s,
        }
        clients: Patch = {}
        if event.round == self.document.get("rounds_planned"):
            # Whoever is at work then is told to stop.
            for client in self._clients.values():
                client.is_at_work = False
        if measured := event.diagnostics:
            drift = list(measured.drift.values())
            values |= {
                "drift": math.fsum(drift) / len(drift) if drift else None,
                "drift_max": max(drift, default=None),
                "agreement": measured.agreement,
                "effective_rank": measured.effective_rank,
                "error": measured.error,
            }
            clients = {name: {"drift": each} for name, each in measured.drift.items()}
        return {"done": self.progress.done, **_round(event.round, values), "clients": clients}

    def _of_feature(self, event: events.Event) -> Patch:
        """What a feature has promised and spent of privacy, if it says so."""
        card = next((each for each in self.progress.cards.values() if "epsilon" in each.status), None)
        if card is None or event.event in events.KINDS:
            return {}
        said: Patch = {
            **{name: value for name, value in card.status.items() if name != "text"},
            "warning": card.warning,
            "facts": [[name, text] for name, text in card.facts],
        }
        epsilon = event.logged.get("privacy/epsilon")
        spent = {} if epsilon is None else _round(vars(event)["round"], {"epsilon": epsilon})
        return {"privacy": said, **spent}

    def _finished(self, event: events.RunFinished) -> Patch:
        # The loss of an evaluated adapter stays; whoever waited for a task is done.
        clients: Patch = {
            name: self._to("ready", name)
            for name, client in self._clients.items()
            if client.state not in ("", "ready", "refused", "away")
        }
        worked_s = self._worked_s if event.wall_s is None else event.wall_s
        return {
            "finished": self._time,
            "worked_s": round(worked_s, 1),
            "kept_round": event.kept_round,
            "clients": clients,
        }


def _started(event: events.RunStarted) -> Patch:
    base, adapter = event.base, event.adapter
    rounds = event.config.get("rounds")
    return {
        "run": event.run,
        "name": event.name,
        "started": event.time,
        "seed": event.seed,
        "peer": event.peer,
        "rounds_planned": rounds if isinstance(rounds, int) else 0,
        "base": {"name": base.name, "parameters": base.parameters, "task": base.task, "fingerprint": base.fingerprint},
        "method": adapter.method,
        "rank": adapter.rank,
        "parameters": adapter.trainable_parameters,
        "full_model_bytes": event.full_model_bytes,
        "rule": event.rule.name if event.rule else None,
        "personal": event.rule.personal if event.rule and event.rule.personal else None,
        "settings": {key: value for key, value in event.config.items() if value not in (None, "", [], {})},
    }


def _evaluated(event: events.Evaluated) -> Patch:
    number = str(event.round)
    worst = max(event.by_client.items(), key=lambda item: item[1].loss, default=None)
    values: Patch = {
        "loss": event.loss,
        "loss_margin": event.loss_margin,
        "change": event.change,
        "change_margin": event.change_margin,
        "accuracy": event.accuracy,
        "worst": worst[1].loss if worst else None,
        "worst_client": worst[0] if worst else None,
    }
    clients: Patch = {name: {"losses": {number: score.loss}} for name, score in event.by_client.items()}
    if event.own:
        values |= {"own_loss": event.own.loss, "own_change": event.own.change}
        for name, score in event.own.by_client.items():
            client = clients.setdefault(name, {})
            if isinstance(client, dict):
                client["own_losses"] = {number: score.loss}
    return {**_round(event.round, values), "clients": clients}


def _round(number: int, values: Patch) -> Patch:
    return {"rounds": {str(number): values}}


def _bytes(traffic: Traffic) -> Patch:
    return {"uplink_bytes": traffic.uplink_bytes, "downlink_bytes": traffic.downlink_bytes}
