"""The line between the page's process and the server beside it: the page asks for the status, the server tells it.

A socket pair that both inherit; no other process can reach it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import cast

from plait.adapters import Json
from plait.errors import MachineError

_QUESTION = b"status"
_MOST_ANSWER_BYTES = 64 << 20
_PATIENCE_S = 20.0


class Line:
    """The page's end; thread-safe.

    Args:
        patience_s: how long to wait for an answer.
    """

    def __init__(self, connection: Connection, *, patience_s: float = _PATIENCE_S) -> None:
        self._connection = connection
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._is_asked = False

    def status(self) -> dict[str, Json]:
        """The server's status, at the time of the question; one that came late is taken by the next caller.

        Raises:
            MachineError: the server does not answer.
        """
        with self._lock:
            try:
                if not self._is_asked:
                    self._connection.send_bytes(_QUESTION)
                    self._is_asked = True
                if not self._connection.poll(self._patience_s):
                    raise TimeoutError
                self._is_asked = False
                answer: object = json.loads(self._connection.recv_bytes(_MOST_ANSWER_BYTES))
            except (OSError, EOFError, ValueError) as error:
                raise MachineError("the server beside this page does not answer") from error
        return cast("dict[str, Json]", answer) if isinstance(answer, dict) else {}


def answering(connection: Connection, status_json: Callable[[], str]) -> threading.Thread:
    """Answer the page in a thread of its own, until the page's end is closed."""
    thread = threading.Thread(target=_answer_all, args=(connection, status_json), name="plait-page", daemon=True)
    thread.start()
    return thread


def _answer_all(connection: Connection, status_json: Callable[[], str]) -> None:
    with connection, suppress(OSError, EOFError):
        while True:
            connection.recv_bytes(len(_QUESTION))
            connection.send_bytes(status_json().encode())
