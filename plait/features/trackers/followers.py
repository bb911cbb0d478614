"""Start the trackers of a run beside it, and let none of them touch it.

Each is a process that reads the ledger. One that fails, or does not finish, is named at the end of the run with the
command that sends the run again; the run itself neither waits for it nor notices.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from plait.child import Beside
from plait.choice import parse_choice, split_choices
from plait.config import RunConfig
from plait.errors import ConfigError, MachineError, did_you_mean
from plait.features.trackers.accelerated import KINDS
from plait.features.trackers.settings import Trackers
from plait.features.trackers.tracker import file_name
from plait.plugins import Kind as PluginKind
from plait.plugins import is_named
from plait.progress import say
from plait.rounds.run_directory import RunDirectory
from plait.text import printable

GRACE_S = 30.0
"""How long the trackers of a run may take to finish once it is over."""

_NONE = ("", "none")


def tracker_names(report_to: str) -> tuple[str, ...]:
    """The trackers of a setting, with their options: separated by commas; none for ``none``."""
    return tuple(name for name in split_choices(report_to) if name.lower() not in _NONE)


def check_trackers(report_to: str) -> None:
    """Refuse an unknown tracker and one whose library is missing.

    Raises:
        ConfigError: one of them; says what to install.
    """
    for text in tracker_names(report_to):
        name, options = parse_choice(text)
        if kind := KINDS.get(name):
            if options:
                raise ConfigError(f"report-to is '{text}', but {name} has no options; it reads its own settings")
            if importlib.util.find_spec(kind.module) is None:
                raise ConfigError(
                    f"report-to is '{name}', but the package {kind.module} is not installed; pip install {kind.module}"
                )
        elif not is_named(PluginKind.TRACKER, name):
            raise ConfigError(
                f"report-to is '{name}', expected none, {', '.join(KINDS)}, or MODULE:CLASS of your own"
                f"{did_you_mean(name, KINDS)}"
            )


@dataclass(frozen=True)
class _Follower:
    name: str
    log: Path
    process: Beside

    def last_line(self) -> str:
        """What it said last."""
        try:
            lines = self.log.read_text(errors="replace").split("\n")
        except OSError:
            return ""
        return printable(next((line for line in reversed(lines) if line.strip()), ""), limit=300)


def check(settings: RunConfig, *, simulates: bool) -> None:
    """Refuse unknown trackers of a run, and those whose library is missing."""
    del simulates
    if isinstance(settings, Trackers):
        check_trackers(settings.report_to)


def beside(settings: RunConfig, run: Path, quiet: bool) -> AbstractContextManager[None]:
    """The trackers of a run follow it while the block runs."""
    names = settings.report_to if isinstance(settings, Trackers) else ""
    return followed(run, names, say=partial(say, quiet=quiet))


@contextlib.contextmanager
def followed(run: Path, report_to: str, *, say: Callable[[str], None]) -> Generator[None]:
    """The trackers of a run follow it while the block runs; the run continues even if they fail."""
    followers: list[_Follower] = []
    for name in tracker_names(report_to):
        try:
            followers.append(_started(run, name, "live"))
        except OSError as error:
            say(f"tracker {name} cannot be started: {error.strerror or error}")
    try:
        yield
    finally:
        _end(followers, run, say)


def send(run: Path, report_to: str) -> None:
    """Send a run, finished or not, to trackers as a new one.

    Raises:
        ConfigError: an unknown tracker, or its library is missing.
        MachineError: a tracker failed.
    """
    check_trackers(report_to)
    for name in tracker_names(report_to):
        follower = _started(run, name, "again")
        follower.process.over()
        try:
            code = follower.process.ended()
        finally:
            follower.process.kill()
        if code:
            raise MachineError(f"tracker {name} failed: {follower.last_line()}; see '{follower.log}'")


def _started(run: Path, name: str, mode: str) -> _Follower:
    folder = RunDirectory(run).trackers
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{file_name(name)}.log"
    with log.open("ab") as file:
        process = Beside("-m", "plait.features.trackers.process", str(run), name, mode, stdout=file, stderr=file)
    return _Follower(name, log, process)


def _end(followers: Sequence[_Follower], run: Path, say: Callable[[str], None]) -> None:
    for follower in followers:
        follower.process.over()
    end = time.monotonic() + GRACE_S
    for follower in followers:
        again = f"`plait track {run} --to {follower.name}` sends the run again"
        code = follower.process.ended(max(0.0, end - time.monotonic()))
        if code is None:
            follower.process.kill()
            say(f"tracker {follower.name} did not finish within {GRACE_S:g} s and was stopped; {again}")
            continue
        if code:
            say(f"tracker {follower.name} failed: {follower.last_line()} (see '{follower.log}'); {again}")
