"""A run as the page shows it: one JSON document, which every event of the ledger changes.

It holds figures, never text for people. Knows no file.
"""

from __future__ import annotations

from collections import deque

from plait.adapters import Json
from plait.ledger import events
from plait.ledger.run_now import RunNow, Traffic

MOST_REFUSALS = 200
"""Refusals that the document keeps, the newest; it counts all."""

_Object = dict[str, Json]


class Board:
    """The document of a run so far; its ``seq`` is the newest event in it, -1 before the first."""

    def __init__(self) -> None:
        self.now = RunNow()
        self._clients: dict[str, _Object] = {}
        self._rounds: dict[str, _Object] = {}
        self._references: _Object = {}
        self._refusals: deque[_Object] = deque(maxlen=MOST_REFUSALS)
        self._refused = 0
        self.document: _Object = {"seq": -1}

    def take(self, event: events.Event, *, broken: str = "") -> None:
        """Process the next event; `broken` is the first break of the ledger's chain so far, in a sentence."""
        now = self.now
        now.take(event)
        self.document |= {
            "seq": event.seq,
            "time": event.time,
            "worked_s": round(now.worked_s, 1),
            "state": now.state,
            "eta_s": now.eta_s,
            "done": now.done,
            "updates": now.accepted,
            **_bytes(now.sent),
        }
        if broken:
            self.document.setdefault("broken", broken)
        if now.round_began is not None:
            late_s = now.late_after_s
            self.document["round"] = {
                "received": len(now.took_s),
                "late_after_s": None if late_s is None else round(late_s, 3),
            }
        for name in now.changed:
            self._client(name).update(self._of_client(name))
        self._take(event)
        # Views of what grows; the document is what they all are by now.
        self.document |= {"clients": {**self._clients}, "rounds": {**self._rounds}, "references": self._references}
        self.document |= {"refusals": [*self._refusals], "refused": self._refused}

    def end(self, *, broken: str) -> None:
        """Nothing more can be read."""
        seq = self.document["seq"]
        self.document |= {"seq": seq + 1 if isinstance(seq, int) else 0, "broken": broken}

    def _client(self, name: str) -> _Object:
        return self._clients.setdefault(name, {})

    def _round(self, number: int) -> _Object:
        return self._rounds.setdefault(str(number), {})

    def _take(self, event: events.Event) -> None:
        """What only this event says."""
        match event:
            case events.RunStarted():
                self.document |= _started(event)
            case events.ClientTurnedAway():
                self._refuse(event, event.name)
            case events.Broadcast() | events.ReplyReceived():
                self._count(event.round)
            case events.UpdateReceived():
                self._count(event.counted_in)
            case events.UpdateRefused():
                self._count(event.round)
                self._refuse(event, event.client, event.round)
            case events.Evaluated():
                self._evaluated(event)
            case events.StepTakenBack():
                self._round(event.round)["taken_back"] = event.sentence
            case events.NotPublished():
                self._round(event.round)["not_published"] = event.sentence
            case events.EndedEarly():
                self.document["ended_early"] = event.sentence
            case events.Reference():
                self._references[event.kind] = list(event.held_out_loss_by_round)
            case events.PublishFailed():
                self.document["publish_failed"] = event.detail
            case events.RunFinished():
                worked_s = self.now.worked_s if event.wall_s is None else event.wall_s
                self.document |= {"finished": event.time, "worked_s": round(worked_s, 1)}
            case _:
                self._of_privacy(event)

    def _of_client(self, name: str) -> _Object:
        """One client, but for its losses."""
        client, described = self.now.standing[name], self.now.clients.get(name)
        return {
            "state": client.state or None,
            "since": client.since,
            "detail": client.detail,
            "given": client.given,
            "examples": described.train_examples if described else None,
            "train_loss": client.train_loss,
            "updates": client.updates,
            "updated_round": client.updated_round,
            **_bytes(client.sent),
        }

    def _count(self, number: int) -> None:
        """What was sent in a round so far."""
        if sent := self.now.sent_by_round.get(number):
            self._round(number).update(_bytes(sent))

    def _refuse(
        self, event: events.ClientTurnedAway | events.UpdateRefused, client: str, number: int | None = None
    ) -> None:
        self._refused += 1
        said = {"client": client, "reason": event.reason, "detail": event.detail}
        self._refusals.append({"time": event.time, "round": number, **said})

    def _evaluated(self, event: events.Evaluated) -> None:
        worst = max(event.by_client.items(), key=lambda item: item[1].loss, default=None)
        self._round(event.round).update(
            {
                "loss": event.loss,
                "change": event.change,
                "change_margin": event.change_margin,
                "accuracy": event.accuracy,
                "worst": worst[1].loss if worst else None,
                "worst_client": worst[0] if worst else None,
                "own_loss": event.own.loss if event.own else None,
            }
        )
        for name, score in event.by_client.items():
            self._client(name)["loss"] = score.loss

    def _of_privacy(self, event: events.Event) -> None:
        """What the run has promised and spent of privacy."""
        card = next((each for each in self.now.cards.values() if "epsilon" in each.status), None)
        if card is None or event.event in events.KINDS:
            return
        self.document["privacy"] = {
            **{name: value for name, value in card.status.items() if name != "text"},
            "warning": card.warning,
            "facts": [[name, text] for name, text in card.facts],
        }


def _started(event: events.RunStarted) -> _Object:
    rounds = event.config.get("rounds")
    return {
        "run": event.run,
        "name": event.name,
        "rounds_planned": rounds if isinstance(rounds, int) else 0,
        "parameters": event.adapter.trainable_parameters,
        "full_model_bytes": event.full_model_bytes,
        "personal": event.rule.personal if event.rule and event.rule.personal else None,
        "settings": {key: value for key, value in event.config.items() if value not in (None, "", [], {})},
    }


def _bytes(traffic: Traffic) -> _Object:
    return {"uplink_bytes": traffic.uplink_bytes, "downlink_bytes": traffic.downlink_bytes}
