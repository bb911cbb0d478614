"""The ledger: the append-only, hash-chained record of a run, one JSON object per line.

Every line has the hash of the line before (`prev`) and its own (`hash`, SHA-256 over the canonical JSON of everything
else), so that a line that is changed, dropped or moved breaks the chain; only lines cut off at the end go unnoticed.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, cast

from plait.errors import ConfigError, PeerError
from plait.ledger.events import Event, parse_event
from plait.system.files import cannot_write, failures_to, fsync_directory, lock, open_plain
from plait.system.text import Json, read_json

_MOST_LINE_BYTES = 256 << 20

Line: TypeAlias = "dict[str, Json]"
"""One line of a ledger: the fields of an event, its number, time and name, and the two hashes."""

OnEvent = Callable[[Event], None]
"""Called with every event of a run once it is recorded, in the run's own thread."""


@dataclass(frozen=True)
class _End:
    """The basis of the next event: the number of events so far, the hash of the last and the total size."""

    events: int = 0
    hash: str = "0" * 64
    size_bytes: int = 0


class Ledger:
    """Appends events to the file at `path`.

    Opening an existing ledger checks its chain and cuts off a torn last line (one that a crash left incomplete).
    While it is open, no one else can open it (if the file system supports locks).

    Args:
        on_event: called with every event after it is written, with its number, time and hash.

    Raises:
        PeerError: the existing file is not an intact chain.
        ConfigError: the ledger is open already.
        MachineError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_event: OnEvent = lambda _: None,
        screen: Callable[[Event], Event | None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._on_event = on_event
        self._screen = screen
        self._clock = clock
        try:
            path.touch(mode=0o600)
            self._file = path.open("ab", buffering=0)
            try:
                if not lock(self._file):
                    raise ConfigError(f"'{path}' is being written by another process; end that one first")
                _, self._end = _parse(path)
                self._file.truncate(self._end.size_bytes)
                fsync_directory(path.parent)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise cannot_write(path, error, doing="open") from error

    def append(self, event: Event) -> None:
        """Write one event and fsync it, together with all events noted before."""
        self._write(event, durable=True)

    def note(self, event: Event) -> None:
        """As `append`, but until the next `append` the event survives only a crash of the process, not a power cut."""
        self._write(event, durable=False)

    def _write(self, given: Event, *, durable: bool) -> None:
        event = self._screen(given) if self._screen else given
        if event is None:
            return
        end = self._end
        line: Line = {
            "seq": end.events,
            "time": round(self._clock(), 3),
            "event": event.event,
            **event.fields(),
            "prev": end.hash,
        }
        own_hash = line["hash"] = _hash(line)
        data = canonical(line) + b"\n"
        try:
            # First cut off what a failed or interrupted append has left.
            self._file.truncate(end.size_bytes)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            if durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self._path, error, needed_bytes=len(data)) from error
        self._end = _End(end.events + 1, own_hash, end.size_bytes + len(data))
        self._on_event(event.model_copy(update={"seq": line["seq"], "time": line["time"], "hash": own_hash}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Follower:
    """Reads a ledger as it grows, each event once, so that following a run takes time proportional to its length.

    Args:
        check: whether to check the hash chain too; otherwise the writer and `read_events` do that.

    Attributes:
        broken: the first break of the chain, in a sentence; empty if there is none, or without `check`.
        read_bytes: the size of everything read so far.
    """

    def __init__(self, path: Path, *, check: bool = False) -> None:
        self._path = path
        self._end = _End() if check else None
        self.broken = ""
        self.read_bytes = 0

    def new_events(self, most_bytes: int = -1) -> list[Event]:
        """The complete events appended since the last call; none if the file cannot be read.

        Args:
            most_bytes: about how much to read at once, for a ledger that may be long; -1 for everything.

        Raises:
            PeerError: a line is not an event, or has no end.
        """
        try:
            with open_plain(self._path) as file:
                file.seek(self.read_bytes)
                data = file.read(most_bytes)
                if b"\n" not in data:
                    data += file.readline(_MOST_LINE_BYTES)
        except OSError:
            return []
        if len(data) >= _MOST_LINE_BYTES and b"\n" not in data:
            raise PeerError(f"'{self._path}' holds a line of more than {_MOST_LINE_BYTES >> 20} MiB")
        whole = data[: data.rfind(b"\n") + 1]
        try:
            events = [parse_event(self._line(raw)) for raw in whole.split(b"\n")[:-1]]
        except (ValueError, AttributeError) as error:
            raise PeerError(f"'{self._path}' holds a line that is not an event of a ledger") from error
        self.read_bytes += len(whole)
        return events

    def _line(self, raw: bytes) -> Line:
        if self._end is not None:
            try:
                line, self._end = _next(raw, self._end, self._path)
            except PeerError as error:
                self.broken, self._end = str(error), None
            else:
                return line
        return cast("Line", read_json(raw))


def read_events(path: Path) -> list[Event]:
    """All complete events of a ledger, with its chain checked; a torn last line is dropped.

    Raises:
        PeerError: the file is missing, a line is not an event, or the chain is broken (the line is named).
    """
    return [parse_event(line) for line in read_lines(path)]


def read_lines(path: Path) -> list[Line]:
    """As `read_events`, but as the JSON objects on disk, whatever their content."""
    with failures_to(f"read the ledger '{path}'", PeerError):
        return _parse(path)[0]


def torn_bytes(path: Path) -> int:
    """The size of a last line that a crash left incomplete; it is in no event."""
    data = path.read_bytes()
    return len(data) - data.rfind(b"\n") - 1


def _parse(path: Path) -> tuple[list[Line], _End]:
    lines: list[Line] = []
    end = _End()
    with open_plain(path) as file:
        while (raw := file.readline(_MOST_LINE_BYTES)).endswith(b"\n"):
            line, end = _next(raw[:-1], end, path)
            lines.append(line)
    if len(raw) == _MOST_LINE_BYTES:
        raise PeerError(f"line {end.events + 1} of '{path}' has more than {_MOST_LINE_BYTES >> 20} MiB")
    return lines, end


def _next(raw: bytes, end: _End, path: Path) -> tuple[Line, _End]:
    """The line that follows on `end`, and the end after it."""
    number = end.events + 1
    try:
        line = cast("Line", read_json(raw))
        stated = cast("str", line["hash"])
        # Different bytes for the same values (spaces, a duplicate key) are a change too.
        whole = (line["seq"], line["prev"], stated, raw) == (end.events, end.hash, _hash(line), canonical(line))
    except (ValueError, KeyError, TypeError) as error:
        raise PeerError(f"line {number} of '{path}' is not an event of a ledger") from error
    if not whole:
        raise PeerError(f"line {number} of '{path}' breaks the hash chain: it was changed, or a line is missing")
    return line, _End(number, stated, end.size_bytes + len(raw) + 1)


def _hash(line: Mapping[str, Json]) -> str:
    return hashlib.sha256(canonical({k: v for k, v in line.items() if k != "hash"})).hexdigest()


def append_event(path: Path, event: Event) -> None:
    """Append an event to the ledger of a finished run."""
    with closing(Ledger(path)) as ledger:
        ledger.append(event)


def canonical(value: object) -> bytes:
    """JSON without spaces, keys in their order, ASCII alone."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=True, allow_nan=False).encode()
