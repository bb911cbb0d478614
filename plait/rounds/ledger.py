"""The ledger: the append-only, hash-chained record of a run, one JSON object a line.

Every line carries its number, the time, the event and its fields, the hash of the line before (`prev`) and its own
(`hash`, SHA-256 over the canonical JSON of everything else). Whoever changes, drops or reorders a line breaks the
chain. Reports read this file and nothing else. Knows nothing of what the events mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

from plait.adapters import Json
from plait.errors import MachineError, PeerError
from plait.files import fsync_directory

_FIRST = "0" * 64

Event = dict[str, Json]


class Ledger:
    """Appends events to the file at `path`, each on disk before `append` returns.

    Opening an existing ledger checks its chain and cuts off a torn last line (one that a crash left half-written).

    Raises:
        PeerError: the existing file is not a whole chain.
        MachineError: the file cannot be written.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._seq = 0
        self._prev = _FIRST
        events: Sequence[Event] = ()
        try:
            if path.exists():
                events, whole_bytes = _parse(path.read_bytes(), path)
                os.truncate(path, whole_bytes)
            self._file = path.open("ab")
            fsync_directory(path.parent)
        except OSError as error:
            raise MachineError(f"cannot open '{path}': {error.strerror or error}") from error
        if events:
            self._seq = len(events)
            self._prev = cast("str", events[-1]["hash"])

    def append(self, event: str, **fields: object) -> Event:
        """Write one event and fsync it.

        Args:
            event: its kind.
            fields: JSON values.

        Raises:
            MachineError: the disk is full or gone.
        """
        line = cast(
            "Event",
            {"seq": self._seq, "time": round(self._clock(), 3), "event": event, **fields, "prev": self._prev},
        )
        line["hash"] = _hash(line)
        try:
            self._file.write(_canonical(line) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise MachineError(f"cannot write '{self._path}': {error.strerror or error}") from error
        self._seq += 1
        self._prev = line["hash"]
        return line

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_events(path: Path) -> list[Event]:
    """All whole events of a ledger, its chain checked; a torn last line is dropped.

    Raises:
        PeerError: the file is missing, a line is not JSON, or the chain is broken (the line is named).
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PeerError(f"cannot read '{path}': {error.strerror or error}, expected the ledger of a run") from error
    return _parse(data, path)[0]


def _parse(data: bytes, path: Path) -> tuple[list[Event], int]:
    events: list[Event] = []
    prev, offset = _FIRST, 0
    lines = data.split(b"\n")
    for number, raw in enumerate(lines[:-1], start=1):
        try:
            event = cast("Event", json.loads(raw))
            stated = event["hash"]
            broken = event["prev"] != prev or event["seq"] != number - 1 or _hash(event) != stated
        except (ValueError, KeyError, TypeError) as error:
            raise PeerError(f"line {number} of '{path}' is not an event of a ledger") from error
        if broken:
            raise PeerError(f"line {number} of '{path}' breaks the hash chain: it was changed, or a line is missing")
        events.append(event)
        prev = cast("str", stated)
        offset += len(raw) + 1
    return events, offset


def _hash(event: Mapping[str, Json]) -> str:
    return hashlib.sha256(_canonical({k: v for k, v in event.items() if k != "hash"})).hexdigest()


def _canonical(event: Mapping[str, Json]) -> bytes:
    return json.dumps(event, separators=(",", ":"), sort_keys=True, ensure_ascii=True, allow_nan=False).encode()
