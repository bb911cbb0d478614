"""Read files that may be missing, and write them so that a power cut leaves the old content or the new, never half.

Also the cache of downloaded packages, converted bases, compiled kernels and measurements. Its content is loaded and
trusted, so it must be writable only by this user (`is_ours`). Knows nothing of what the files hold.
"""

import atexit
import contextlib
import ctypes
import errno
import logging
import mmap
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Generator
from functools import cache
from io import BufferedReader, FileIO
from pathlib import Path

import platformdirs

from plait.errors import DiskFullError, MachineError, PlaitError

if sys.platform != "win32":
    import fcntl
    import grp
    import pwd

_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_MADV_POPULATE_READ = 22  # asm-generic/mman-common.h, from Linux 5.14 on
_CACHE_VARIABLE = "PLAIT_CACHE"
_ADVICE = f"set {_CACHE_VARIABLE} to a directory of your own"
_LOGGER = logging.getLogger(__name__)


def write_atomically(path: Path, data: bytes, *, exported: bool = False) -> None:
    """Write `data` to a temporary file, fsync it and rename it to `path`; only this user can read it.

    Args:
        exported: whether all users may read it.

    Raises:
        MachineError: the directory is missing or read-only, or the disk is full; `path` is as it was.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644 if exported else 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        temporary = None
        fsync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error, needed_bytes=len(data)) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def is_full(error: OSError) -> bool:
    """Whether a disk, or a quota on it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def cannot_write(path: Path, error: OSError, *, doing: str = "write", needed_bytes: int = 0) -> MachineError:
    """The error for a failed write; for a full disk it names the disk and the space needed (0 bytes: unknown)."""
    what = f"cannot {doing} '{path}': {error.strerror or error}"
    if not is_full(error):
        return MachineError(what)
    needs = f", {needed_bytes:,} bytes more are needed" if needed_bytes else ""
    try:
        disk = path.absolute().parent
        while not disk.is_mount() and disk != disk.parent:
            disk = disk.parent
        free_bytes = shutil.disk_usage(disk).free
    except OSError:
        return DiskFullError(what + needs)
    return DiskFullError(f"{what}; the disk at '{disk}' has {free_bytes:,} bytes free{needs}")


@contextlib.contextmanager
def writes_to(path: Path, *, doing: str = "write", needed_bytes: int = 0) -> Generator[None]:
    """Makes `cannot_write` of what the system says meanwhile."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error, doing=doing, needed_bytes=needed_bytes) from error


@contextlib.contextmanager
def disk_full_errors() -> Generator[None]:
    """Turn the errors that libraries raise for a full disk into DiskFullError."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise
        raise cannot_write(Path(error.filename or tempfile.gettempdir()), error) from error


def at_home(path: str | Path) -> Path:
    """A path with ``~`` expanded to a home directory; unchanged if there is no such user or home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_there(path: Path) -> bool:
    """Whether there is something; False too for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def open_plain(path: Path) -> BufferedReader:
    """A file, opened to read; OSError also for a pipe, whose opening would wait for its writer, or a device."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file")
    return path.open("rb")


@contextlib.contextmanager
def failures_to(do: str, fault: type[PlaitError] = MachineError) -> Generator[None]:
    """Makes one line of what the system says meanwhile: that plait cannot `do` this, and why."""
    try:
        yield
    except OSError as error:
        raise fault(f"cannot {do}: {error.strerror or error}") from error


def leads_elsewhere(directory: Path) -> str:
    """What below a directory is neither a file nor a folder of it, in words; empty if all is.

    That is a symbolic link out of it, at any depth, a pipe, a socket or a device. `directory` itself may be a link.
    """
    root = directory.resolve()
    folders = [root]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                entries = list(found)
        except FileNotFoundError:
            # A run in progress removes what it no longer needs.
            continue
        for entry in entries:
            if entry.is_symlink():
                if not Path(entry.path).resolve().is_relative_to(root):
                    return f"'{entry.path}' is a link that leads out of it"
            elif entry.is_dir():
                folders.append(Path(entry.path))
            elif not entry.is_file() and Path(entry.path).exists():
                return f"'{entry.path}' is neither a file nor a folder"
    return ""


def lies_in(file: Path, directory: Path) -> bool:
    """Whether a file of a directory is no link out of it; in a snapshot of the hub's cache it may lie in the blobs."""
    root, place = directory.resolve(), file.resolve()
    blobs = root.parents[1] / "blobs" if root.parent.name == "snapshots" else root
    return place.is_relative_to(root) or place.is_relative_to(blobs)


def read_if_there(path: Path) -> bytes | None:
    """The content of a file; None if there is none, MachineError if it cannot be read."""
    with failures_to(f"read '{path}'"), contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def lock(file: FileIO) -> bool:
    """Keep a file for this process, until it is closed; False if another process has it.

    Where there are no locks (Windows, some network file systems) it is True.
    """
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def make_private_directory(path: Path) -> None:
    """Make a directory and its missing parents, each private to its owner whatever the umask."""
    for folder in (*reversed(path.parents), path):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))


def ensure_private_directory(path: Path) -> None:
    """As `make_private_directory`; MachineError if it cannot be made."""
    with writes_to(path, doing="make"):
        make_private_directory(path)


def is_ours(path: Path) -> bool:
    """Whether `path` exists and only this user and root could have made or can change it."""
    try:
        return not others_can_change(path)
    except OSError:
        return False


def others_can_change(path: Path, *, depth: int = sys.maxsize) -> str:
    """How another user could have written or could change `path`; empty if only this user and root can.

    Everything must belong to this user or root and be writable only by them: `path`, which may not be a symbolic
    link, everything below it, and every directory that leads to it. In a sticky directory, such as `/tmp`, others
    cannot rename this user's files, so one may lead to it. Without numeric owners (Windows) nothing is checked.

    Raises:
        OSError: there is nothing, or it cannot be checked.
    """
    if sys.platform == "win32":
        return ""
    path = path.absolute()
    path.lstat()  # fails for links that lead to each other
    return _above(path.parent) or _itself_and_below(path, depth)


def _above(directory: Path) -> str:
    for folder in (*reversed(directory.parents), directory):
        facts = folder.lstat()
        if stat.S_ISLNK(facts.st_mode):
            # Its owner decides where it leads; its target is checked in its place.
            wrong = _owner(folder, facts) or _above(folder.parent / folder.readlink())
        else:
            wrong = _owner(folder, facts) or ("" if facts.st_mode & stat.S_ISVTX else _mode(folder, facts))
        if wrong:
            return wrong
    return ""


def _itself_and_below(path: Path, depth: int) -> str:
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        return f"'{path}' is a symbolic link"
    wrong = _owner(path, facts) or _mode(path, facts)
    if wrong or not depth or not stat.S_ISDIR(facts.st_mode):
        return wrong
    for entry in path.iterdir():
        # Another of our processes may have removed it.
        with contextlib.suppress(FileNotFoundError):
            if wrong := _itself_and_below(entry, depth - 1):
                return wrong
    return ""


def _owner(path: Path, facts: os.stat_result) -> str:
    if facts.st_uid in (0, os.geteuid()):
        return ""
    return f"'{path}' belongs to user {facts.st_uid}, expected {os.geteuid()} or root"


def _mode(path: Path, facts: os.stat_result) -> str:
    by_others = facts.st_mode & stat.S_IWOTH or (facts.st_mode & stat.S_IWGRP and not _is_own_group(facts))
    return f"'{path}' can be written by others (mode {stat.S_IMODE(facts.st_mode):04o})" if by_others else ""


def _is_own_group(facts: os.stat_result) -> bool:
    """Whether a file's group contains only its owner, as on distributions whose umask is 002."""
    try:
        owner, group = pwd.getpwuid(facts.st_uid), grp.getgrgid(facts.st_gid)
    except KeyError:
        return False
    return owner.pw_gid == facts.st_gid and owner.pw_name == group.gr_name and set(group.gr_mem) <= {owner.pw_name}


def fsync_directory(path: Path) -> None:
    """Make the names inside `path` durable (a no-op if directories cannot be opened, as on Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def directory_written_aside(path: Path, *, exported: bool = False) -> Generator[Path]:
    """Yield an empty directory beside `path`; if the block succeeds, it replaces `path`.

    An existing directory is moved away first and removed last, so that a crash leaves one of the two intact; a failure
    moves it back.

    Args:
        exported: whether all users may read it; else only this one can.

    Raises:
        MachineError: the parent is missing or read-only, or the disk is full; `path` is as it was.
    """
    aside: Path | None = None
    try:
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
        yield aside
        for file in (aside, *aside.rglob("*")):
            # Whatever the writer's umask.
            mode = file.lstat().st_mode & stat.S_IRWXU
            file.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6 if exported else mode)
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        fsync_directory(aside)
        _exchange(aside, path)
        fsync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _exchange(new: Path, path: Path) -> None:
    if not os.path.lexists(path):
        new.replace(path)
        return
    away = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{_prefix(path)}old."))
    # A directory of another user can be renamed here, but not moved into another directory.
    old = away if path.is_dir() and not path.is_symlink() else away / path.name
    try:
        path.replace(old)
        new.replace(path)
    finally:
        if not os.path.lexists(path) and os.path.lexists(old):
            old.replace(path)
        shutil.rmtree(away, ignore_errors=True)


def _prefix(path: Path) -> str:
    return f".{path.name[:32]}."


def cache_directory() -> Path:
    """The cache directory, made if missing: `PLAIT_CACHE` of the environment, or else the user's cache.

    Only this user and root can write there. If others can write to the chosen directory, it is left alone with a
    warning, and a temporary directory is used until the process ends.

    Raises:
        MachineError: it cannot be made or written.
    """
    chosen = os.environ.get(_CACHE_VARIABLE)
    path = at_home(chosen) if chosen else platformdirs.user_cache_path("plait", appauthor=False)
    try:
        make_private_directory(path)
        path = path.resolve()
        # Not everything below it: each entry is checked when it is read.
        wrong = others_can_change(path, depth=1)
    except OSError as error:
        raise MachineError(f"cannot make the cache directory '{path}': {error.strerror or error}; {_ADVICE}") from error
    if wrong:
        return _stand_in(wrong)
    if not os.access(path, os.W_OK):
        raise MachineError(f"cannot write the cache directory '{path}'; {_ADVICE}")
    return path


@cache
def _stand_in(wrong: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix="plait-cache-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    if also := others_can_change(path):
        raise MachineError(f"{wrong}, and {also}: no directory can be used as a cache; {_ADVICE}")
    _LOGGER.warning("cache not used: %s; remove that access (chmod, chown) or %s", wrong, _ADVICE)
    return path


def begin_to_store(descriptor: int, offset: int, size: int) -> None:
    """A hint to begin writing a part of a file (in bytes), so that a later fsync waits less (Linux only)."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):
            part = ctypes.c_int64(offset), ctypes.c_int64(size)
            ctypes.CDLL(None).sync_file_range(descriptor, *part, _SYNC_FILE_RANGE_WRITE)


def map_file(descriptor: int) -> memoryview | None:
    """A whole file mapped into memory, once all of it has been read; None if it must be read instead.

    Valid even after the file is deleted; it must not be written to meanwhile.
    """
    if sys.platform != "linux":
        return None
    try:
        mapped = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        # An unreadable page is an error here; touching it later would kill the process.
        mapped.madvise(_MADV_POPULATE_READ)
    except (OSError, ValueError):
        return None
    return memoryview(mapped)
