"""Servers that share a directory, on storage that all of them reach: one serves, another takes over if it falls silent.

    DIRECTORY/.lease/000007/        the folder of the seventh turn; the highest number serves
                        alive       the newest sign of its holder, with a count that grows
                        inbox/RUN/  answers as they arrive

*Taking over.* Whoever waits reads the count. Once it has not grown for so many seconds of the waiter's own clock, the
waiter makes the next folder, which only one can. No two clocks are compared, and no lock is used: a file system may
keep a lock for a machine that is gone.

*Fencing.* The server before may only have paused, and go on in the middle of anything. Everything that it puts below
the directory is renamed out of the folder of its turn (`plait.files.Gate`), everything that it takes away is renamed
into it, and its answers arrive there. The one that takes over moves the answers on, removes that folder once it has
none, and reads nothing before. Nobody makes such a folder a second time. So from then on each such rename fails,
wherever the other server was held up; each that came before is read. Ledgers, which it has open, are replaced by
copies; an event counts for its writer only if a rename in its folder still succeeds after the event is on disk. So the
server before is as one that was killed before the folder went.

What is not fenced: messages that it had already handed to the network, whose answers it cannot store; places outside
the directory that a run publishes to, and processes beside it (trackers, the live page), until it has noticed.

This asks of the storage what POSIX does: `mkdir` and `rename` are atomic, a removed folder takes no file, and whoever
opens a file reads what was last put in its place. NFS and the usual cluster file systems give that; object stores do
not.

Knows nothing of runs, gRPC and signals.
"""

from __future__ import annotations

import errno
import json
import shutil
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from plait.errors import LeaseLostError, MachineError
from plait.files import cannot_write, gate_of, read_if_there, written_through
from plait.text import printable

UNFINISHED_SUFFIX = ".part"
"""Files of an inbox that may still be written to."""
_FOLDER, _ALIVE, _INBOX, _PLAIN_INBOX = ".lease", "alive", "inbox", ".inbox"
_SIGNS = 5
"""Signs of life within the time after which a holder counts as silent."""
_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)
_PAUSE_S, _CLEARING_AT_MOST_S = 0.01, 60.0
_MOST_SHOWN = 100


@dataclass(frozen=True)
class Holder:
    """Who serves, for people.

    Attributes:
        name: host and process.
        address: where it listens.
        silent_s: seconds without a sign after which others may take over.
    """

    name: str
    address: str
    silent_s: float

    def __str__(self) -> str:
        return printable(f"{self.name} ({self.address})", limit=_MOST_SHOWN)


@dataclass(frozen=True)
class _Sign:
    """A holder's sign of life.

    Attributes:
        beat: how many it has given.
        ended: whether it gave its turn up.
    """

    holder: Holder
    beat: int
    ended: bool = False

    def to_bytes(self) -> bytes:
        return json.dumps({**asdict(self.holder), "beat": self.beat, "ended": self.ended}).encode()

    @classmethod
    def read(cls, folder: Path) -> _Sign | None:
        """The newest sign in the folder of a turn; None if there is none, or none that can be read."""
        try:
            said = cast("dict[str, object]", json.loads(read_if_there(folder / _ALIVE) or b"null"))
            holder = Holder(str(said["name"]), str(said["address"]), float(str(said["silent_s"])))
            return cls(holder, int(str(said["beat"])), said["ended"] is True)
        except (ValueError, TypeError, KeyError, MachineError):
            return None


class Turn:
    """A server's turn; see `plait.files.Gate`.

    Args:
        directory: that several servers share.
        number: of the turn.
        on_lost: called once, from another thread, when another server has taken over.
    """

    def __init__(self, directory: Path, number: int, holder: Holder, *, on_lost: Callable[[], None]) -> None:
        self._directory = directory
        self._holder = holder
        self._number = number
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._beats = 0
        self._proven = 0.0
        self.lost: LeaseLostError | None = None
        self._signs = threading.Thread(target=self._live, name="plait-lease", daemon=True)

    @property
    def folder(self) -> Path:
        """See `plait.files.Gate`."""
        return _folder(self._directory, self._number)

    @property
    def follows_another(self) -> bool:
        """See `plait.files.Gate`."""
        return self._number > 1

    def inbox(self, run: Path) -> Path:
        """See `plait.files.Gate`; answers that came before servers shared the directory are moved there."""
        name = "run" if run.absolute() == self._directory.absolute() else run.name
        try:
            place = _made_below(self.folder, _INBOX) / name
            if not place.exists() and (run / _PLAIN_INBOX).is_dir():
                (run / _PLAIN_INBOX).replace(place)
        except OSError as error:
            self.prove()
            raise cannot_write(self.folder / _INBOX, error, doing="make") from error
        return place

    def check(self) -> None:
        """See `plait.files.Gate`."""
        if _now() - self._proven > self._holder.silent_s / _SIGNS:
            self.prove()

    def prove(self) -> None:
        """See `plait.files.Gate`."""
        self._give_sign()

    def begin(self) -> None:
        """Give signs of life, then take over from all turns before."""
        self.prove()
        self._signs.start()
        for number in _turns(self._directory):
            if number < self._number:
                self._clear(_folder(self._directory, number))

    def end(self) -> None:
        """Give the turn up, so that another server need not wait."""
        self._over.set()
        if self._signs.ident is not None:
            self._signs.join()
        with suppress(MachineError):
            self._give_sign(ended=True)

    def _clear(self, earlier: Path) -> None:
        """Move the answers of an earlier turn on, and remove its folder: from then on nothing comes out of it.

        Its server may still be at work. So no answer is removed with the folder, only moved.
        """
        began = _now()
        while True:
            try:
                if not earlier.exists():
                    return
                _move_answers(earlier / _INBOX, self.folder)
                for path in earlier.iterdir():
                    if path.name != _INBOX:
                        _remove(path)
                earlier.rmdir()
            except OSError as error:
                self.check()
                # Busy: a file that a process of this machine has open, on NFS.
                comes = error.errno in (*_GONE, errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)
                if not comes or _now() - began > _CLEARING_AT_MOST_S:
                    raise cannot_write(earlier, error, doing="remove") from error
                time.sleep(_PAUSE_S)

    def _give_sign(self, *, ended: bool = False) -> None:
        with self._lock:
            if self.lost is not None:
                raise self.lost
            began, folder = _now(), self.folder
            try:
                new = folder / f"{_ALIVE}.new"
                new.write_bytes(_Sign(self._holder, self._beats + 1, ended).to_bytes())
                new.replace(folder / _ALIVE)
                is_newest = max(_turns(self._directory), default=0) <= self._number
            except OSError as error:
                if error.errno not in _GONE:
                    raise cannot_write(folder / _ALIVE, error) from error
                self.lost = self._loss()
                raise self.lost from error
            if not is_newest:
                self.lost = self._loss()
                raise self.lost
            self._beats, self._proven = self._beats + 1, began

    def _loss(self) -> LeaseLostError:
        newest = 0
        with suppress(OSError):
            newest = max(_turns(self._directory), default=0)
        sign = _Sign.read(_folder(self._directory, newest))
        other = sign.holder if sign is not None and newest != self._number else "another server"
        return LeaseLostError(
            f"{other} has taken over '{self._directory}', because this server gave no sign of life for "
            f"{self._holder.silent_s:g} s; it has written nothing since"
        )

    def _live(self) -> None:
        while not self._over.wait(self._holder.silent_s / _SIGNS):
            try:
                self.prove()
            except LeaseLostError:
                self._on_lost()
                return
            except MachineError:
                pass  # a full disk is told by whoever writes to it; the next sign may succeed


@contextmanager
def turn(
    directory: Path,
    holder: Holder,
    *,
    on_wait: Callable[[Holder | None], None] = lambda _: None,
    on_lost: Callable[[], None] = lambda: None,
) -> Generator[None]:
    """Wait until no other server serves a directory, and write below it while the block runs.

    Args:
        directory: that several servers share; made if missing.
        holder: this server.
        on_wait: called for every server that is waited for; None if it has said nothing yet.
        on_lost: called once, from another thread, if another server has taken over: the block should end.

    Raises:
        LeaseLostError: it was taken over, whatever else the block raised then.
        MachineError: the directory cannot be written.
    """
    number = _claimed(directory, holder, on_wait)
    own = Turn(directory, number, holder, on_lost=on_lost)
    try:
        own.begin()
        with written_through(directory, own):
            yield
    except BaseException:
        # It may have failed because another server took over, which no sign of life has noticed yet.
        with suppress(MachineError):
            own.prove()
        if own.lost is not None:
            raise own.lost from None
        raise
    finally:
        own.end()


def is_shared(directory: Path) -> bool:
    """Whether servers share a directory."""
    return (directory / _FOLDER).is_dir()


def share(directory: Path) -> None:
    """Have servers share a directory from now on; made if missing.

    Raises:
        MachineError: the directory cannot be written.
    """
    try:
        (directory / _FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(directory / _FOLDER, error, doing="make") from error


def inbox_of(run: Path) -> Path:
    """Where the answers to a run arrive."""
    gate = gate_of(run)
    return run / _PLAIN_INBOX if gate is None else gate.inbox(run)


def _claimed(directory: Path, holder: Holder, on_wait: Callable[[Holder | None], None]) -> int:
    """Wait for a turn; gives its number."""
    share(directory)
    try:
        seen: object = None
        since, told = _now(), ""
        while True:
            newest = max(_turns(directory), default=0)
            sign = _Sign.read(_folder(directory, newest))
            if (now := (newest, sign.beat if sign else 0)) != seen:
                seen, since = now, _now()
            silent_s = max(holder.silent_s, sign.holder.silent_s if sign else 0.0)
            if newest == 0 or (sign and sign.ended) or _now() - since > silent_s:
                with suppress(FileExistsError):
                    _folder(directory, newest + 1).mkdir(mode=0o700)
                    return newest + 1
                time.sleep(_PAUSE_S)  # a listing may be old for a while, on NFS
                continue
            if (who := str(sign and sign.holder)) != told:
                told = who
                on_wait(sign.holder if sign else None)
            time.sleep(holder.silent_s / (2 * _SIGNS))
    except OSError as error:
        raise cannot_write(directory / _FOLDER, error) from error


def _move_answers(earlier: Path, turn_folder: Path) -> None:
    """Move answers on to the folder of a turn, and remove the folders in which they were once those are empty."""
    for path in (*sorted(earlier.rglob("*"), reverse=True), earlier):
        # Whatever was renamed meanwhile is found by the next look.
        with suppress(FileNotFoundError):
            if path.is_dir():
                path.rmdir()
                continue
            place = _made_below(turn_folder, _INBOX, *path.relative_to(earlier).parent.parts) / path.name
            if path.suffix == UNFINISHED_SUFFIX:
                # The server before may have it open; what it has received so far need not come again.
                shutil.copyfile(path, place)
                path.unlink()
            else:
                path.replace(place)


def _made_below(turn_folder: Path, *names: str) -> Path:
    """A folder below that of a turn, which is not made itself: once it is gone the turn is over.

    Raises:
        FileNotFoundError: it is gone.
    """
    for name in names:
        turn_folder = turn_folder / name
        turn_folder.mkdir(exist_ok=True)
    return turn_folder


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _folder(directory: Path, number: int) -> Path:
    return directory / _FOLDER / f"{number:06d}"


def _turns(directory: Path) -> list[int]:
    """The numbers of all turns whose folders are there."""
    with suppress(FileNotFoundError):
        return sorted(int(path.name) for path in (directory / _FOLDER).iterdir() if path.name.isdecimal())
    return []


def _now() -> float:
    """Seconds that also pass while the machine sleeps, where it can tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
