"""A run as the page shows it: one JSON document, and for every event of the ledger the merge patch that changes it.

The document is what all patches make of an empty one, so a watcher that has it as of one event and applies the later
patches has all of it. It holds figures, never text for people. Knows no file.
"""

from __future__ import annotations

import math
from collections import deque

from plait.adapters import Json
from plait.features.page.merge import Patch, difference, join, merge
from plait.rounds import events
from plait.rounds.run_now import RunNow, Traffic

MOST_REFUSALS = 200
"""Refusals that the document keeps, the newest; it counts all."""


class Board:
    """Selects what the page shows from a run as it goes on.

    Attributes:
        document: of the run so far; ``seq`` is the newest event in it, -1 before the first.
    """

    def __init__(self) -> None:
        self.document: dict[str, Json] = {"seq": -1}
        self.now = RunNow()
        self._refused = 0
        self._refusals: deque[str] = deque()
        self._broken = ""

    def take(self, event: events.Event, *, broken: str = "") -> Patch:
        """Process the next event.

        Args:
            broken: the first break of the ledger's chain so far, in a sentence; empty if there is none.

        Returns:
            What it changes in the document, which has changed by now.
        """
        now = self.now
        now.take(event)
        self._broken = broken or self._broken
        wanted: Patch = {
            "seq": event.seq,
            "time": event.time,
            "hash": event.hash,
            "worked_s": round(now.worked_s, 1),
            "broken": self._broken or None,
            "state": now.state,
            "eta_s": now.eta_s,
            "done": now.done or None,
            "updates": now.accepted or None,
            "interruptions": now.interruptions or None,
        }
        if now.round_began is not None:
            wanted["round"] = self._round()
        if now.changed:
            wanted["clients"] = {name: self._client(name) for name in now.changed}
        if now.sent.total_bytes:
            wanted |= _bytes(now.sent)
        patch = {"seq": event.seq, **difference(self.document, join(wanted, self._of(event)))}
        merge(self.document, patch)
        return patch

    def end(self, *, broken: str) -> Patch:
        """The patch in place of the next event, if that cannot be read."""
        seq = self.document["seq"]
        patch: Patch = {"seq": seq + 1 if isinstance(seq, int) else 0, "broken": broken}
        merge(self.document, patch)
        return patch

    def _of(self, event: events.Event) -> Patch:
        """What only this event says."""
        match event:
            case events.RunStarted():
                return _started(event)
            case events.ClientTurnedAway():
                return self._refusal(event, event.name)
            case events.RoundStarted():
                return _round(event.round, {"started": event.time, "cohort": len(self.now.cohort)})
            case events.RoundMissed():
                return _round(event.round, {"missed": event.attempt})
            case events.Broadcast() | events.ReplyReceived():
                return self._bytes_of(event.round)
            case events.UpdateReceived():
                return self._bytes_of(event.counted_in)
            case events.UpdateRefused():
                return join(self._bytes_of(event.round), self._refusal(event, event.client, event.round))
            case events.RoundFinished():
                return _finished_round(event)
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
                losses: Patch = {"loss": event.held_out_loss, "by_round": list(event.held_out_loss_by_round)}
                return {"references": {event.kind: losses}}
            case events.PublishFailed():
                return {"publish_failed": event.detail}
            case events.RunFinished():
                worked_s = self.now.worked_s if event.wall_s is None else event.wall_s
                return {"finished": event.time, "worked_s": round(worked_s, 1), "kept_round": event.kept_round}
            case _:
                return self._of_feature(event)

    def _round(self) -> Patch:
        """The round in progress, or the last one."""
        now = self.now
        late_s = now.late_after_s
        return {
            "number": now.round,
            "started": now.round_began,
            "cohort": len(now.cohort),
            "received": len(now.took_s),
            "late_after_s": None if late_s is None else round(late_s, 3),
        }

    def _client(self, name: str) -> Patch:
        """One client, but for its losses and its drift."""
        client, described = self.now.standing[name], self.now.clients.get(name)
        patch: Patch = {}
        if client.state:
            patch = {
                "state": client.state,
                "since": client.since,
                "detail": client.detail,
                "given": client.given,
                "answered": client.answered,
                "train_s": client.train_s,
            }
        if described:
            patch |= {
                "examples": described.train_examples,
                "tokens": described.train_tokens,
                "held_out": described.held_out_examples,
                "rank": described.rank,
            }
        if client.updates:
            patch |= {
                "train_loss": client.train_loss,
                "learning_rate": client.learning_rate,
                "updates": client.updates,
                "updated_round": client.updated_round,
            }
        return {**patch, **_bytes(client.sent)} if client.sent.total_bytes else patch

    def _bytes_of(self, number: int) -> Patch:
        """What was sent in a round so far."""
        sent = self.now.sent_by_round.get(number)
        return _round(number, _bytes(sent)) if sent else {}

    def _refusal(
        self, event: events.ClientTurnedAway | events.UpdateRefused, client: str, number: int | None = None
    ) -> Patch:
        self._refused += 1
        seq = str(event.seq)
        changed: Patch = {
            seq: {
                "time": event.time,
                "client": client,
                "reason": event.reason,
                "detail": event.detail,
                "round": number,
            }
        }
        self._refusals.append(seq)
        if len(self._refusals) > MOST_REFUSALS:
            changed[self._refusals.popleft()] = None
        return {"refusals": changed, "refused": self._refused}

    def _of_feature(self, event: events.Event) -> Patch:
        """What a feature has promised and spent of privacy, if it says so."""
        card = next((each for each in self.now.cards.values() if "epsilon" in each.status), None)
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


def _finished_round(event: events.RoundFinished) -> Patch:
    values: Patch = {
        "received": event.received,
        "refused": event.refused,
        "update_norm": event.update_norm,
        "wall_s": event.wall_s,
    }
    if (measured := event.diagnostics) is None:
        return _round(event.round, values)
    drift = list(measured.drift.values())
    values |= {
        "drift": math.fsum(drift) / len(drift) if drift else None,
        "drift_max": max(drift, default=None),
        "agreement": measured.agreement,
        "effective_rank": measured.effective_rank,
        "error": measured.error,
    }
    clients: Patch = {name: {"drift": each} for name, each in measured.drift.items()}
    return {**_round(event.round, values), "clients": clients}


def _started(event: events.RunStarted) -> Patch:
    base, adapter = event.base, event.adapter
    rounds = event.config.get("rounds")
    return {
        "run": event.run,
        "name": event.name,
        "started": event.time,
        "seed": event.seed,
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
