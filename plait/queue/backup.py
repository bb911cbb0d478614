"""Back up the directory of a federation while it is served, and restore it elsewhere.

An archive is a tar whose first member lists all others with size and SHA-256: against damage, not against whoever may
write it. The journal is read first, so that every run in it that has ended is whole. Of the run in progress the newest
checkpoint is taken, then the published adapter, which may be the best one of earlier rounds, then the ledger up to the
end of the checkpoint's round. What came later is done again, to the same bits where clients are at most one round
ahead: they keep what a round began from for the newest two.

Knows nothing of servers and of clients.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from plait.errors import ConfigError, MachineError, PeerError
from plait.files import cannot_write, fsync_directory, make_private_directory
from plait.queue.acts import Restored
from plait.queue.run_queue import JOURNAL_FILE, RUNS_FOLDER, Entry, RunQueue, State, read_queue
from plait.rounds.checkpoint import checkpoints_in, damage_of
from plait.rounds.events import RoundStarted, RunFinished
from plait.rounds.ledger import read_lines
from plait.rounds.run_directory import RunDirectory

_MANIFEST = "plait-backup.json"
_FORMAT = 1
_MOST_MANIFEST_BYTES = 1 << 26
_MOST_FILES = 1 << 20
_MOST_DEPTH = 6
_ATTEMPTS = 20
_CHUNK_BYTES = 1 << 20
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")
_NOT_TAKEN = frozenset({"server.log", "server.log.1", "trackers"})
"""Besides names with a dot in front: what arrives, and what is being written."""


@dataclass(frozen=True)
class Summary:
    """What an archive holds.

    Attributes:
        taken: when, in seconds since 1970.
        runs: that have begun.
        files: how many.
        size_bytes: of all files.
        running: the run in progress; empty for none.
        round: the round after which that one goes on.
        cancelled: whether it does not go on, because its noise could be released twice.
    """

    taken: float
    runs: int
    files: int
    size_bytes: int
    running: str = ""
    round: int = 0
    cancelled: bool = False


def back_up(directory: Path, archive: Path) -> Summary:
    """Write an archive of a federation, which may be served meanwhile.

    Args:
        directory: of the federation.
        archive: a new file, ``.tar`` or ``.tar.gz``; readable by its owner alone, for it may hold keys of noise.

    Raises:
        ConfigError: the archive is there already, or has another suffix; or the directory holds no federation.
        PeerError: the journal or a ledger is damaged.
        MachineError: cannot be read or written.
    """
    mode = "w:gz" if archive.name.endswith(".tar.gz") else "w:" if archive.name.endswith(".tar") else ""
    if not mode:
        raise ConfigError(f"archive is '{archive}', expected a name that ends in .tar or .tar.gz")
    if archive.exists():
        raise ConfigError(f"'{archive}' is there already, expected a new file")
    if not (directory / JOURNAL_FILE).is_file():
        raise ConfigError(
            f"'{directory}' holds no federation (no {JOURNAL_FILE}), expected --out of a server that stays"
        )
    # Read before the runs: whatever it says is over is whole then.
    journal = _whole_lines(directory / JOURNAL_FILE)
    taken = time.time()
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=".backup.") as aside:
            staged = Path(aside)
            (staged / JOURNAL_FILE).write_bytes(journal)
            running, number, begun = "", 0, 0
            for entry in read_queue(staged):
                if entry.begun is None:
                    continue
                begun += 1
                source, target = directory / RUNS_FOLDER / entry.run, staged / RUNS_FOLDER / entry.run
                if entry.is_over:
                    _take_over(source, target)
                else:
                    running, number = entry.run, _take_running(source, target)
            files = sorted(path for path in staged.rglob("*") if path.is_file())
            told = {
                "format": _FORMAT,
                "taken": taken,
                "running": running,
                "round": number,
                "files": {path.relative_to(staged).as_posix(): [path.stat().st_size, _digest(path)] for path in files},
            }
            _pack(archive, mode, json.dumps(told).encode(), staged, files)
            size = sum(path.stat().st_size for path in files)
    except OSError as error:
        raise cannot_write(archive, error, doing="back up into") from error
    return Summary(taken, begun, len(files), size, running, number)


def restore(archive: Path, directory: Path, *, private_too: bool = False) -> Summary:
    """Unpack an archive into a new directory; it appears only once all is there and every chain was checked.

    Args:
        archive: from `back_up`.
        directory: missing, or empty.
        private_too: whether an unfinished run with `--dp client` goes on: only where nothing that the server released
            after the backup has left it.

    Raises:
        ConfigError: the directory holds something.
        PeerError: the archive is damaged, not one of `back_up`, or holds what no federation does.
        MachineError: cannot be read or written, or the disk has no room.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"'{directory}' is there already, expected a new or empty directory")
    aside: Path | None = None
    try:
        directory.absolute().parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=directory.absolute().parent, prefix=f".{directory.name[:32]}."))
        with _opened(archive) as tar:
            told = _manifest(tar)
            files = _files_of(told)
            size = sum(bytes_ for bytes_, _ in files.values())
            if (free := shutil.disk_usage(aside).free) < size:
                raise MachineError(f"'{directory}' needs {size:,} bytes, but its disk has {free:,} free")
            _unpack(tar, files, aside)
        entries = _checked(aside)
        running = next((entry for entry in entries if entry.state is State.RUNNING), None)
        number, cancelled = cast("int", told["round"]), False
        queue = RunQueue(aside)
        try:
            queue.record(Restored(taken=cast("float", told["taken"]), run=running.run if running else "", round=number))
            if running is not None and running.config.get("dp") == "client" and not private_too:
                queue.cancel(running.run, by="restore: its noise could be released twice")
                cancelled = True
        finally:
            queue.close()
        if directory.exists():
            directory.rmdir()
        aside.rename(directory)
        aside = None
        fsync_directory(directory.absolute().parent)
    except OSError as error:
        raise cannot_write(directory, error, doing="restore") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    begun = sum(entry.begun is not None for entry in entries)
    name = running.run if running else ""
    return Summary(cast("float", told["taken"]), begun, len(files), size, name, number, cancelled)


def _take_over(source: Path, target: Path) -> None:
    """Take a run that is over; its server may remove what `plait verify` alone reads, or be ending a cancelled one."""
    for _ in range(_ATTEMPTS):
        try:
            _link_tree(source, target)
        except FileNotFoundError:
            shutil.rmtree(target, ignore_errors=True)
        else:
            return
    raise _too_fast(source)


def _take_running(source: Path, target: Path) -> int:
    """Take a run that goes on meanwhile; gives the round after which it will be continued."""
    run = RunDirectory(source)
    for _ in range(_ATTEMPTS):
        target.mkdir(parents=True, exist_ok=True)
        rounds = checkpoints_in(run.checkpoints)
        if not rounds or not run.ledger.exists():
            # Nothing was asked of a client yet: the run begins anew.
            shutil.rmtree(target)
            return 0
        newest = rounds[-1]
        try:
            _link_tree(newest, target / "checkpoints" / newest.name)
            _link_tree(run.adapter, target / run.adapter.name)
            for name in (run.config, run.server, run.noise_key):
                if name.exists():
                    _link(name, target / name.name)
            # After the checkpoint, so that it tells of its round; what it tells beyond that is cut off.
            number = int(newest.name.removeprefix("round-"))
            (target / run.ledger.name).write_bytes(_until_round(run.ledger, number))
            for folder in (source / "spool").glob("round-*"):
                if int(folder.name.removeprefix("round-").partition(".")[0]) <= number:
                    _link_tree(folder, target / "spool" / folder.name)
        except (FileNotFoundError, ValueError):
            shutil.rmtree(target)  # an older checkpoint was dropped meanwhile
            continue
        # A later adapter is of no round that the ledger tells of.
        if checkpoints_in(run.checkpoints)[-1:] == [newest] and not any(damage_of(target / "checkpoints").values()):
            return number
        shutil.rmtree(target)
    raise _too_fast(source)


def _too_fast(source: Path) -> MachineError:
    return MachineError(f"run '{source.name}' went on faster than it could be read {_ATTEMPTS} times, try again")


def _until_round(ledger: Path, number: int) -> bytes:
    """The lines of a ledger until a later round begins, or the run ends, which publishes its adapter."""
    lines = read_lines(ledger)
    later = (
        at
        for at, line in enumerate(lines)
        if line["event"] == RunFinished.event
        or (line["event"] == RoundStarted.event and cast("int", line["round"]) > number)
    )
    kept = next(later, len(lines))
    return b"".join(raw + b"\n" for raw in ledger.read_bytes().split(b"\n")[:kept])


def _whole_lines(path: Path) -> bytes:
    read_lines(path)
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def _link_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        place = path.relative_to(source)
        if path.is_file() and not path.is_symlink() and _is_taken(place):
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            _link(path, target / place)


def _is_taken(place: Path) -> bool:
    return all(_PART.fullmatch(part) for part in place.parts) and place.parts[0] not in _NOT_TAKEN


def _link(source: Path, target: Path) -> None:
    """Keep a file as it is: plait replaces files and never writes into them, except into ledgers."""
    if source.suffix == ".jsonl":
        target.write_bytes(source.read_bytes())
        return
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pack(archive: Path, mode: str, manifest: bytes, staged: Path, files: list[Path]) -> None:
    descriptor, name = tempfile.mkstemp(dir=archive.absolute().parent, prefix=f".{archive.name[:32]}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as out:
            with tarfile.open(fileobj=out, mode=mode, format=tarfile.PAX_FORMAT) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
                _add(tar, _MANIFEST, len(manifest), io.BytesIO(manifest))
                for path in files:
                    with path.open("rb") as file:
                        _add(tar, path.relative_to(staged).as_posix(), path.stat().st_size, file)
            out.flush()
            os.fsync(out.fileno())
        Path(name).rename(archive)
        fsync_directory(archive.absolute().parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _add(tar: tarfile.TarFile, name: str, size: int, file: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    tar.addfile(member, file)


@contextmanager
def _opened(archive: Path) -> Generator[tarfile.TarFile]:
    try:
        with tarfile.open(archive, "r|*") as tar:
            yield tar
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        raise PeerError(f"'{archive}' is damaged or no archive, expected one of `plait backup`: {error}") from error


def _manifest(tar: tarfile.TarFile) -> dict[str, object]:
    first = tar.next()
    if first is None or first.name != _MANIFEST or not first.isreg() or first.size > _MOST_MANIFEST_BYTES:
        raise PeerError(f"archive does not begin with {_MANIFEST}, expected one of `plait backup`")
    file = tar.extractfile(first)
    told: object = json.loads(file.read()) if file else None
    if not isinstance(told, dict):
        raise PeerError(f"{_MANIFEST} is no JSON object, expected what `plait backup` wrote")
    found = cast("dict[str, object]", told)
    kinds = {"format": int, "taken": float, "running": str, "round": int, "files": dict}
    if {key: type(value) for key, value in found.items()} != kinds or found["format"] != _FORMAT:
        raise PeerError(f"{_MANIFEST} has other keys or another format than {_FORMAT}, expected {', '.join(kinds)}")
    if not math.isfinite(cast("float", found["taken"])) or cast("int", found["round"]) < 0:
        raise PeerError(f"{_MANIFEST} has no time or no round, expected both")
    return found


def _files_of(told: dict[str, object]) -> dict[str, tuple[int, str]]:
    """Sizes and digests by name; every name leads below the directory."""
    files: dict[str, tuple[int, str]] = {}
    listed = cast("dict[str, object]", told["files"])
    if len(listed) > _MOST_FILES:
        raise PeerError(f"archive lists {len(listed)} files, expected at most {_MOST_FILES}")
    for name, value in listed.items():
        parts = name.split("/")
        if len(parts) > _MOST_DEPTH or not all(_PART.fullmatch(part) for part in parts):
            raise PeerError(f"archive lists {name[:100]!a}, expected a file of a federation")
        match value:
            case [int(size), str(digest)] if 0 <= size < 1 << 62:
                files[name] = size, digest
            case _:
                raise PeerError(f"archive lists {name[:100]!a} without its size and digest, expected both")
    return files


def _unpack(tar: tarfile.TarFile, files: dict[str, tuple[int, str]], directory: Path) -> None:
    missing = dict(files)
    while (member := tar.next()) is not None:
        expected = missing.pop(member.name, None)
        if expected is None or not member.isreg() or member.size != expected[0]:
            raise PeerError(f"archive holds {member.name[:100]!a}, expected what it lists: files, once each, no links")
        place = directory / member.name
        make_private_directory(place.parent)
        data = tar.extractfile(member)
        digest = hashlib.sha256()
        with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            for chunk in _chunks(data):
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != expected[1]:
            raise PeerError(f"digest of '{member.name}' is {digest.hexdigest()[:16]}, expected {expected[1][:16]}")
    if missing:
        raise PeerError(f"archive lacks '{next(iter(missing))}' and {len(missing) - 1} others, expected all it lists")


def _chunks(data: IO[bytes] | None) -> Iterator[bytes]:
    while data is not None and (chunk := data.read(_CHUNK_BYTES)):
        yield chunk


def _checked(directory: Path) -> list[Entry]:
    """The runs of a federation whose journal, ledgers and checkpoints were checked."""
    entries = read_queue(directory)
    for entry in entries:
        if not _PART.fullmatch(entry.run):
            raise PeerError(f"journal has a run {entry.run[:100]!a}, expected the name of a directory")
        run = RunDirectory(directory / RUNS_FOLDER / entry.run)
        if run.ledger.exists():
            read_lines(run.ledger)
        if entry.state is State.RUNNING:
            for name, damage in damage_of(run.checkpoints).items():
                if damage:
                    raise PeerError(f"checkpoint {name} of run '{entry.run}' is damaged: {damage}")
    return entries
