"""The file of a data set's journal: ``STATE/journals/<federation>-<data>.jsonl``, and what shows that it is the newest.

Beside the client's kit stands how many lines it had and their digest, so that a state directory that was restored from
an older copy, or removed, is noticed as long as the kit is not restored with it. A kit that cannot be written to keeps
no such note. Knows nothing of what the lines say.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate

from plait.errors import MachineError, PolicyError
from plait.files import cannot_write, fsync_directory, make_private_directory, read_if_there, write_atomically
from plait.json_text import read_json

_FOLDER = "journals"


@dataclass(frozen=True)
class JournalFile:
    """A `plait.rounds.data_journal.Lines` in a file.

    Attributes:
        path: made when the first line is added, private to its owner.
        note: beside the kit; None without one.
    """

    path: Path
    note: Path | None = None

    @classmethod
    def of(cls, state: Path, *, authority: bytes, data: str, kit: Path | None = None) -> JournalFile:
        """The journal of some data in a federation.

        Args:
            authority: certificate of the federation's authority, in PEM; empty without TLS.
            data: fingerprint of the data, in hexadecimal.
            kit: directory of the client's kit; None without one.
        """
        name = f"{_federation(authority)}-{data[:32]}"
        return cls(state / _FOLDER / f"{name}.jsonl", kit / f"{_FOLDER}.{name}" if kit else None)

    def read(self) -> Sequence[str]:
        """All lines.

        Raises:
            PolicyError: the kit knows of lines that are not here.
            MachineError: they cannot be read.
        """
        lines = _whole_lines(read_if_there(self.path) or b"")
        self._check(lines)
        return [line.decode(errors="replace") for line in lines]

    def _check(self, lines: Sequence[bytes]) -> None:
        count, digest = self._noted()
        if len(lines) < count or (count and _digest(lines[:count]) != digest):
            raise PolicyError(
                f"'{self.path}' has {len(lines)} entries, but this client's kit knows of {count}: --state was "
                f"removed, or restored from an older copy. What was unmasked and spent since is unknown. Restore the "
                f"newest copy, or remove '{self.note}' to start over without that record"
            )

    def append(self, line: str) -> None:
        """Add a line, on disk before this returns.

        Raises:
            PolicyError: as for `read`.
            MachineError: the disk is full or read-only.
        """
        with self._locked() as descriptor:
            data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            self._check(_whole_lines(data))
            lines = [*_whole_lines(data), line.encode()]
            try:
                # What was killed in the middle of a line never counted.
                end = len(data) - len(data.rpartition(b"\n")[2])
                os.ftruncate(descriptor, end)
                os.pwrite(descriptor, line.encode() + b"\n", end)
                os.fsync(descriptor)
                if len(lines) == 1:
                    fsync_directory(self.path.parent)
            except OSError as error:
                raise cannot_write(self.path, error) from error
            if self.note is not None:
                said = json.dumps({"lines": len(lines), "digest": _digest(lines)})
                with contextlib.suppress(MachineError):
                    write_atomically(self.note, said.encode())

    def _noted(self) -> tuple[int, str]:
        data = read_if_there(self.note) if self.note is not None else None
        try:
            said = cast("dict[str, object]", read_json(data)) if data else {}
            return int(cast("int", said["lines"])), str(said["digest"])
        except (ValueError, KeyError, TypeError):
            return 0, ""

    @contextlib.contextmanager
    def _locked(self) -> Generator[int]:
        try:
            make_private_directory(self.path.parent)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)


def _federation(authority: bytes) -> str:
    """A name for a federation: its authority's key, whose certificate may be renewed."""
    if not authority:
        return "none"
    key = load_pem_x509_certificate(authority).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()[:32]


def _whole_lines(data: bytes) -> list[bytes]:
    return data.split(b"\n")[:-1]


def _digest(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
