"""What no ledger has: which clients are connected now and what each is doing, as the server beside the page sees it.

Asked at most once a second, however many watch, and only while someone does. Knows no HTTP.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import cast

from plait.adapters import Json
from plait.errors import PlaitError
from plait.features.page.line import Line

_EVERY_S = 1.0


class Live:
    """The newest answer.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, line: Line, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._line = line
        self._clock = clock
        self._asked = float("-inf")
        self._run = ""
        self._version = 0
        self._clients = b"{}"

    def look(self) -> bool:
        """Ask the server if it is time to; whether anything has changed."""
        if self._clock() - self._asked < _EVERY_S:
            return False
        self._asked = self._clock()
        try:
            status = self._line.status()
        except PlaitError:
            # Watchers see that no events come; what clients do now is not known.
            status = {}
        run, clients = str(status.get("run", "")), json.dumps(doing_now(status)).encode()
        if (run, clients) == (self._run, self._clients):
            return False
        self._run, self._clients = run, clients
        self._version += 1
        return True

    def of(self, run: str) -> tuple[int, bytes]:
        """The version, and the clients of a run by name; none of a run that is not served now."""
        return self._version, self._clients if run == self._run else b"{}"


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
