"""A client's journal of its data in a federation, over all runs, and its secret of each of them.

Masks and differential privacy refuse by it: ``STATE/journals/<federation>-<data>.jsonl``. An entry is on disk before
the answer that it is about leaves. Beside the client's kit, and in the home of its user, stand the number of its lines
and their digest. So a state directory that was removed or restored from an older copy is noticed, and so is another
client of the user with the same data in another state directory. Where nothing can be written there is no such note; a
damaged one is refused.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, cast

from cryptography.x509 import load_pem_x509_certificate

from plait.errors import ConfigError, MachineError, PolicyError
from plait.rounds.memory import ClientStore
from plait.system.files import fsync_directory, make_private_directory, read_if_there, write_atomically, writes_to
from plait.system.text import read_json
from plait.trust.keys import KEY_BYTES, derived, key_digest
from plait.wire.settings import Settings

_FOLDER = "journals"


@dataclass(eq=False)
class DataJournal:
    """The journal of one data set in one federation; `notes` prove which copy is the newest."""

    path: Path
    notes: tuple[Path, ...] = ()
    _entries: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]], init=False)

    @classmethod
    def of(cls, state: Path, *, authority: bytes, data: str, kit: Path | None = None, home: Path | None = None) -> Self:
        """The journal of some data, by fingerprint, in a federation, by its authority's certificate (or none).

        `kit` is the client's directory, without which there are no notes, `home` that of its user's state.
        """
        # Its key, for the certificate may be renewed.
        federation = key_digest(load_pem_x509_certificate(authority).public_key()).hex()[:32] if authority else "none"
        name = f"{federation}-{data[:32]}"
        notes = *([kit / f"{_FOLDER}.{name}"] if kit else []), *([home / f"{_FOLDER}.{name}"] if home and kit else [])
        return cls(state / _FOLDER / f"{name}.jsonl", notes)

    def entries(self) -> Sequence[Mapping[str, Any]]:
        """All entries; of those that were read before none has changed."""
        lines, read = self.read(), len(self._entries)
        if len(lines) < read:
            raise PolicyError(
                "this client's journal of its data has fewer entries than a moment ago: restore the newest"
            )
        try:
            new = [read_json(line) for line in lines[read:]]
        except ValueError as error:
            raise damaged() from error
        if not all(isinstance(each, dict) for each in new):
            raise damaged()
        self._entries += cast("list[Mapping[str, Any]]", new)
        return self._entries

    def add(self, entry: Mapping[str, object]) -> None:
        """Add an entry, durably."""
        self.append(json.dumps(entry, sort_keys=True))

    def read(self) -> Sequence[str]:
        """All lines; PolicyError if a note knows of lines that are not here."""
        lines = _whole_lines(read_if_there(self.path) or b"")
        self._check(lines)
        return [line.decode(errors="replace") for line in lines]

    def append(self, line: str) -> None:
        """Add a line, on disk before this returns; PolicyError as for `read`."""
        with extended(self.path) as (before, add):
            self._check(before)
            add(line.encode())
            lines = [*before, line.encode()]
            noted = json.dumps({"lines": len(lines), "digest": _digest(lines)})
            for note in self.notes:
                with contextlib.suppress(MachineError, OSError):
                    make_private_directory(note.parent)
                    write_atomically(note, noted.encode())

    def _check(self, lines: Sequence[bytes]) -> None:
        for note in self.notes:
            count, digest = _noted(note)
            if len(lines) < count or (count and _digest(lines[:count]) != digest):
                raise PolicyError(
                    f"'{self.path}' has {len(lines)} entries, but '{note}' knows of {count}: --state was removed, or "
                    "restored from an older copy, or another client has the same data in another --state. What was "
                    "unmasked and spent there is unknown here. Restore the newest copy, give all clients of these data "
                    "one --state, or remove that file to start over without the record"
                )


_KEY = "secret"


@dataclass(frozen=True)
class ClientSecret:
    """The secret of one client in one run."""

    value: bytes = field(repr=False)

    @classmethod
    def of(cls, memory: ClientStore) -> Self:
        """The one in the client's memory of the run; drawn and stored there if there is none."""
        known = cls.known(memory)
        if known is None:
            known = cls(secrets.token_bytes(KEY_BYTES))
            memory.save(_KEY, known.value)
        return known

    @classmethod
    def known(cls, memory: ClientStore) -> Self | None:
        """The one in the client's memory of the run, if there is one."""
        value = memory.load(_KEY)
        return None if value is None or len(value) != KEY_BYTES else cls(value)

    @classmethod
    def simulated(cls, seed: int, client: str) -> Self:
        """That of a simulated client, from the run's seed: a simulation has one operator and can be repeated."""
        return cls(hashlib.sha256(f"secret of a simulation {seed} {client}".encode()).digest())

    @property
    def account(self) -> str:
        """The client's own name for the run, in the journal of its data: a server may call two runs the same."""
        return derived(self.value, b"account").hex()[:32]

    def seeded(self, settings: Settings) -> Settings:
        """The settings of a task, with the client's own seed in a masked round."""
        if not settings.secure_aggregation:
            return settings
        key = derived(self.value, b"batches", settings.round.to_bytes(8, "big"))
        return replace(settings, seed=int.from_bytes(key[:8], "big") >> 1)

    def rounding(self, number: int, received: bytes) -> bytes:
        """The key of a round's rounding, the same in every attempt; `received` is the starting adapter's digest."""
        return derived(self.value, b"rounding", number.to_bytes(8, "big"), received)


def damaged() -> ConfigError:
    """The error of a journal that cannot be read."""
    return ConfigError(
        "this client's journal of its data is damaged: what was unmasked and spent is unknown; restore the file"
    )


@contextlib.contextmanager
def extended(path: Path) -> Generator[tuple[list[bytes], Callable[[bytes], None]]]:
    """The whole lines of a file, made if missing, while no other process extends it; and what adds one durably."""
    with writes_to(path):
        make_private_directory(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        lines = _whole_lines(data)

        def add(line: bytes) -> None:
            with writes_to(path):
                # What was killed in the middle of a line never counted.
                end = len(data) - len(data.rpartition(b"\n")[2])
                os.ftruncate(descriptor, end)
                os.pwrite(descriptor, line + b"\n", end)
                os.fsync(descriptor)
                if not lines:
                    fsync_directory(path.parent)

        yield lines, add
    finally:
        os.close(descriptor)


def _noted(note: Path) -> tuple[int, str]:
    """How many lines a note knows of, and their digest; none if there is no note."""
    data = read_if_there(note)
    try:
        noted = cast("dict[str, object]", read_json(data)) if data is not None else {"lines": 0, "digest": ""}
        return int(cast("int", noted["lines"])), str(noted["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise PolicyError(
            f"'{note}' is damaged, so it is unknown whether the journal of this client's data is the newest: restore "
            "it, or, if the journal was neither removed nor restored since, remove it"
        ) from error


def _whole_lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


def _digest(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
