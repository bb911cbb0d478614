"""What the page knows of a run, read once for all who look: its ledger, and what the server beside it sees.

Page and server are joined by a pair of sockets that only their two processes have: the page asks for the status, at
most once a second, and only while someone looks. Knows no HTTP.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

from plait.errors import PeerError
from plait.ledger import events
from plait.ledger.ledger import Follower
from plait.ledger.run_now import RunNow
from plait.page.beside import QUESTION
from plait.rounds.run_directory import RunDirectory
from plait.system.text import Json, read_json

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
            **vars(now.sent),
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
        """What this event alone changes."""
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
            **vars(client.sent),
        }

    def _count(self, number: int) -> None:
        """What was sent in a round so far."""
        if sent := self.now.sent_by_round.get(number):
            self._round(number).update(vars(sent))

    def _refuse(
        self, event: events.ClientTurnedAway | events.UpdateRefused, client: str, number: int | None = None
    ) -> None:
        self._refused += 1
        refusal = {"client": client, "reason": event.reason, "detail": event.detail}
        self._refusals.append({"time": event.time, "round": number, **refusal})

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


_READ_BYTES = 1 << 20
_MOST_ANSWER_BYTES = 64 << 20
_PATIENCE_S = 5.0
_EVERY_S = 1.0


class Feed:
    """One run, read on demand, from a directory that need not hold one yet; thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._ledger = RunDirectory(directory).ledger
        self._lock = threading.Lock()
        self._file: tuple[int, int] | None = None
        self._begin()

    def _begin(self) -> None:
        self._follower = Follower(self._ledger, check=True)
        self._board = Board()
        self._document = b'{"seq":-1}'
        self._is_unreadable = False
        # Size at which there was no whole line more: half a line, however long, is read once.
        self._half_bytes = -1

    def document(self) -> bytes:
        """The run as of now, as JSON on one line without a character outside ASCII."""
        with self._lock:
            has_changed = False
            while self._read():
                has_changed = True
            if has_changed:
                self._document = json.dumps(self._board.document, separators=(",", ":"), allow_nan=False).encode()
            return self._document

    def _read(self) -> bool:
        """Read what was appended, at most about a megabyte; whether anything was new."""
        try:
            now = self._ledger.stat()
        except OSError:
            return False
        if (now.st_dev, now.st_ino) != self._file or now.st_size < self._follower.read_bytes:
            # Another run has taken its place.
            self._file = (now.st_dev, now.st_ino)
            self._begin()
        if self._is_unreadable or now.st_size in (self._follower.read_bytes, self._half_bytes):
            return False
        try:
            new = self._follower.new_events(_READ_BYTES)
            self._half_bytes = -1 if new else now.st_size
            for event in new:
                self._board.take(event, broken=self._follower.broken)
            return bool(new)
        except PeerError as error:
            why = str(error)
        except Exception as error:
            # A fault in showing one run must not freeze the other.
            logging.getLogger("plait.page").exception("cannot show '%s'", self._ledger)
            why = f"'{self._ledger}' cannot be shown: {type(error).__name__}"
        self._is_unreadable = True
        self._board.end(broken=why)
        return True


class Live:
    """The page's end; thread-safe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._asked = float("-inf")
        self._is_asked = False
        self._status: Mapping[str, Json] = {}

    def of(self, run: str) -> dict[str, Json]:
        """The clients of a run by name; none of a run that is not served now, or if the server does not answer."""
        with self._lock:
            try:
                if not self._is_asked and time.monotonic() - self._asked >= _EVERY_S:
                    self._connection.send_bytes(QUESTION)
                    self._is_asked, self._asked = True, time.monotonic()
                if self._is_asked:
                    answers = self._connection.poll(_PATIENCE_S)  # one that comes late is taken by the next call
                    received = read_json(self._connection.recv_bytes(_MOST_ANSWER_BYTES)) if answers else None
                    self._is_asked = not answers
                    self._status = cast("dict[str, Json]", received) if isinstance(received, dict) else {}
            except (OSError, EOFError, ValueError):
                self._status = {}
            return doing_now(self._status) if self._status.get("run") == run else {}


def doing_now(status: Mapping[str, Json]) -> dict[str, Json]:
    """What each client is doing: ``state`` where the ledger cannot know it, ``doing`` in its own words."""
    clients: dict[str, Json] = {}
    for node in _objects(status.get("nodes")):
        now: dict[str, Json] = {"doing": node.get("doing", "")}
        if node.get("is_uploading"):
            now["state"] = "uploading"
        clients[str(node.get("name"))] = now
    for node in _objects(status.get("nodes_away")):
        clients[str(node.get("name"))] = {"state": "away"}
    return clients


def _objects(value: Json) -> list[dict[str, Json]]:
    return [cast("dict[str, Json]", one) for one in value if isinstance(one, dict)] if isinstance(value, list) else []
