"""The line between the page's process and the server beside it: the page asks, the server answers, one at a time.

A socket pair that both inherit; nobody else can reach it. The server decides what it does; who may ask for it, the
page's door has decided.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Protocol, cast

from plait.adapters import Json
from plait.errors import ConfigError, MachineError, PlaitError

_MOST_QUESTION_BYTES = 1 << 14
_MOST_ANSWER_BYTES = 64 << 20
_PATIENCE_S = 20.0


class Desk(Protocol):
    """What the page can ask of a server; called from one thread."""

    def status_json(self) -> str:
        """What `plait status --json` prints."""
        ...

    def cancel(self, by: str, run: str) -> str:
        """Cancel a run; returns the state that it was in."""
        ...

    def note_link(self, by: str, role: str, *, used: bool) -> None:
        """Record that somebody made a link to the page, or that one of theirs was used."""
        ...


class Line:
    """The page's end; thread-safe.

    Args:
        connection: its end of the pair.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._is_cut = False

    def status(self) -> dict[str, Json]:
        """The server's status.

        Raises:
            PlaitError: as `cancel`.
        """
        status = self._ask({"ask": "status"})
        return cast("dict[str, Json]", status) if isinstance(status, dict) else {}

    def cancel(self, by: str, run: str) -> str:
        """Cancel a run; returns the state that it was in.

        Raises:
            ConfigError: the server refuses, in a sentence for whoever asked.
            MachineError: the server does not answer.
        """
        return str(self._ask({"ask": "cancel", "by": by, "run": run}))

    def note_link(self, by: str, role: str, *, used: bool) -> None:
        """Have it recorded that a link was made or used.

        Raises:
            PlaitError: as `cancel`.
        """
        self._ask({"ask": "note_link", "by": by, "role": role, "used": used})

    def _ask(self, question: dict[str, Json]) -> Json:
        with self._lock:
            try:
                if self._is_cut:
                    raise EOFError
                self._connection.send_bytes(json.dumps(question).encode())
                if not self._connection.poll(_PATIENCE_S):
                    raise EOFError
                answer = json.loads(self._connection.recv_bytes(_MOST_ANSWER_BYTES))
            except (OSError, EOFError, ValueError) as error:
                # A late answer would be taken for that to the next question.
                self._is_cut = True
                raise MachineError("the server beside this page does not answer") from error
        if "refused" in answer:
            raise ConfigError(str(answer["refused"]))
        return answer.get("answer")


def answering(connection: Connection, desk: Desk) -> threading.Thread:
    """Answer the page in a thread of its own, until the page's end is closed."""
    thread = threading.Thread(target=_answer_all, args=(connection, desk), name="plait-page", daemon=True)
    thread.start()
    return thread


def _answer_all(connection: Connection, desk: Desk) -> None:
    # A page that asks for something else is no page of this version, and gets nothing more.
    with connection, suppress(OSError, EOFError, ValueError, KeyError, TypeError):
        while True:
            question = json.loads(connection.recv_bytes(_MOST_QUESTION_BYTES))
            try:
                answer: dict[str, Json] = {"answer": _answer(question, desk)}
            except PlaitError as error:
                answer = {"refused": str(error)}
            connection.send_bytes(json.dumps(answer).encode())


def _answer(question: dict[str, str], desk: Desk) -> Json:
    match question["ask"]:
        case "status":
            return json.loads(desk.status_json())
        case "cancel":
            return desk.cancel(question["by"], question["run"])
        case "note_link":
            desk.note_link(question["by"], question["role"], used=bool(question["used"]))
            return None
        case other:
            raise ConfigError(f"page asks for {other!a}, expected what this server knows")
