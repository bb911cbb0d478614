"""The folder of a run: the place of each of its files, and how it is made and found again.

RUN/config.toml   the resolved settings
    ledger.jsonl  the record (see ledger.py)
    server.toml, server.log   how `plait server` serves it, and its events
    checkpoints/  what resume needs (see run_state.py)
    noise.key     of a run with differential privacy: secret
    spool/        updates received in the current round, one file per client
    adapter/      the newest adapter as a PEFT directory; quarantine/adapter/ after a client withdrew
    summary.json, report.html, *.png   written by the report
    trackers/     files that trackers of the run keep

What a run began with is read from its ledger (`recorded_settings`): config.toml is a copy for people, and must equal
it. Imports nothing that the settings name: `plait.api.received` decides what may be.
"""

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plait.config import RunConfig, config_from_table
from plait.errors import ConfigError, PeerError
from plait.ledger.events import Event, start_of
from plait.ledger.ledger import read_events
from plait.settings.table import read_config_table
from plait.system.files import (
    failures_to,
    fsync_directory,
    leads_elsewhere,
    make_private_directory,
    read_if_there,
    write_atomically,
    writes_to,
)
from plait.system.text import printable

if TYPE_CHECKING:
    from plait.plugin_search import PluginSource

_WHY = "why.txt"
_SAFE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_BEGINNING_BYTES = 1 << 20


def check_stays_inside(directory: Path) -> None:
    """Refuse a directory that plait writes in and that holds a link out of it, a pipe or a device."""
    with failures_to(f"read '{directory}'"):
        elsewhere = leads_elsewhere(directory)
    if elsewhere:
        raise ConfigError(f"'{directory}' holds more than a run: {elsewhere}, where plait would write; remove it")


class RunDirectory:
    """Paths inside one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.ledger = path / "ledger.jsonl"
        self.server = path / "server.toml"
        self.server_log = path / "server.log"
        self.inbox = path / ".inbox"
        self.checkpoints = path / "checkpoints"
        self.noise_key = path / "noise.key"
        self._quarantine = path / "quarantine"
        self.trackers = path / "trackers"

    @classmethod
    def create(cls, path: Path, *, config_toml: str) -> "RunDirectory":
        """Make the folder of a new run."""
        run = cls(path)
        if run.has_started:
            raise ConfigError(
                f"'{path}' already holds a run; `plait resume {path}` continues it, or give another --out"
            )
        # Remains of a run that was killed before its first event.
        own = {each.name for name, each in vars(run).items() if name != "path"}
        with writes_to(path, doing="make the run directory"):
            if path.exists():
                if any(entry.name not in own and entry.name[0] != "." for entry in path.iterdir()):
                    raise ConfigError(f"'{path}' is not empty, expected a new directory for the run")
                check_stays_inside(path)
                shutil.rmtree(run.checkpoints, ignore_errors=True)
            make_private_directory(run.checkpoints)
        write_atomically(run.config, config_toml.encode())
        return run

    @classmethod
    def find(cls, path: Path) -> "RunDirectory":
        """The folder of an existing run."""
        run = cls(path)
        if not run.has_started:
            raise ConfigError(f"'{path}' holds no run: it has no ledger.jsonl with an event")
        check_stays_inside(path)
        return run

    @property
    def has_started(self) -> bool:
        """Whether there is a ledger with at least one event; a run killed while writing its first has none."""
        try:
            if not self.ledger.is_file():
                return False
            with self.ledger.open("rb") as file:
                beginning = file.read(_BEGINNING_BYTES)
        except OSError:
            return False
        return b"\n" in beginning or len(beginning) == _BEGINNING_BYTES

    @property
    def adapter(self) -> Path:
        """Where its adapter is, or will be."""
        return (self._quarantine if why_held_back(self._quarantine) else self.path) / "adapter"

    def hold_back(self, why: str) -> None:
        """Keep the adapter in quarantine from now on, for this reason."""
        with writes_to(self._quarantine, doing="move the adapter to"):
            make_private_directory(self._quarantine)
            write_atomically(self._quarantine / _WHY, f"{why}\n".encode())
            if (self.path / "adapter").is_dir() and not self.adapter.exists():
                (self.path / "adapter").rename(self.adapter)
                fsync_directory(self.path)

    def client_memory(self, client: str) -> Path:
        """Directory of a simulated client's state."""
        return self.path / "clients" / _file_name(client)

    def store_update(self, round_number: int, client: str, data: bytes) -> None:
        """Store one received update durably; it is then never requested again."""
        folder = self._spool(round_number)
        with writes_to(folder, doing="make"):
            if not folder.is_dir():
                make_private_directory(folder)
                fsync_directory(folder.parent)
                fsync_directory(self.path)
        write_atomically(folder / _file_name(client), data)

    def load_update(self, round_number: int, client: str) -> bytes | None:
        """A stored update, or None."""
        return read_if_there(self._spool(round_number) / _file_name(client))

    def discard_update(self, round_number: int, client: str) -> None:
        """Forget a stored update."""
        path = self._spool(round_number) / _file_name(client)
        with writes_to(path, doing="remove"):
            path.unlink(missing_ok=True)

    def clear_updates(self) -> None:
        """Drop the spool of finished rounds."""
        shutil.rmtree(self.path / "spool", ignore_errors=True)

    def _spool(self, round_number: int) -> Path:
        return self.path / "spool" / f"round-{round_number:06d}"


def why_held_back(folder: Path) -> str:
    """Why the adapters in a folder are in quarantine; empty if they are not."""
    return (read_if_there(folder / _WHY) or b"").decode(errors="replace").strip()


def check_given_out(adapter: Path) -> None:
    """Refuse to give out an adapter in quarantine."""
    if why := why_held_back(adapter.absolute().parent):
        raise ConfigError(f"the adapter '{adapter}' is in quarantine: {printable(why, limit=1000)}")


def _file_name(client: str) -> str:
    # Names come from outside: one that could leave the folder, or collide with another on a case-insensitive file
    # system, is replaced by its hash.
    if _SAFE_NAME.fullmatch(client):
        return f"{client}.envelope"
    return f"sha256-{hashlib.sha256(client.encode()).hexdigest()}.envelope"


def check_sources(events: Sequence[Event], found: "Sequence[PluginSource]") -> None:
    """Refuse to continue a run whose plug-ins have another source now."""
    here = {(each.kind.value, each.name): each for each in found}
    start = start_of(events)
    for began in start.plugins if start else ():
        now = here.get((began.kind, began.name))
        if now is not None and began.sha256 != now.sha256:
            of = f" ({began.distribution})" if began.distribution else ""
            raise ConfigError(
                f"source of {began.kind} '{began.name}' is {now.sha256[:16] or 'unknown'} here, expected "
                f"{began.sha256[:16] or 'unknown'} as when the run began{of}: bring that source back, or begin a "
                "new run"
            )


def recorded_settings(directory: RunDirectory, events: list[Event] | None = None) -> RunConfig:
    """The settings that a run began with; ``out`` is the directory, wherever it has been moved to.

    Raises:
        ConfigError: config.toml is missing or differs from the ledger, or the settings are not valid.
    """
    events = read_events(directory.ledger) if events is None else events
    start = start_of(events)
    if start is None:
        raise PeerError(f"'{directory.ledger}' does not begin with a run's settings, expected the ledger of a run")
    recorded = config_from_table(start.config, where=f"'{directory.ledger}'")
    kept = config_from_table(read_config_table(directory.config), where=f"'{directory.config}'")
    before, now = recorded.to_table(), kept.to_table()
    for key in before.keys() - {"out"}:
        if before[key] != now[key]:
            raise ConfigError(
                f"{key} is {now[key]!r} in '{directory.config}' but {before[key]!r} in the run's ledger: the file was "
                "changed after the run began; put it back"
            )
    return recorded.model_copy(update={"out": str(directory.path)})
