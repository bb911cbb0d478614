"""A standing federation: a queue of runs that operators submit, served one after the other to clients that stay too.

Each run is served exactly as ``plait server`` serves its one (`server.served_run`), in a directory of its own. Requests
and their outcomes are in the journal (`run_queue`), so a killed server continues the run that it served. Sets no signal
handler and configures no logging: both are the caller's.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from plait.api.resuming import is_reported
from plait.api.serving import Serving, conclude, new_run_number, vouch_of
from plait.apps import bind_apps
from plait.config import RunConfig, config_from_table
from plait.errors import ConfigError, DiskFullError, Interrupted, PlaitError
from plait.features.standing.acts import Outcome
from plait.features.standing.limits import Patience, Quota, RunLimits, gigabytes
from plait.features.standing.retention import tidy_runs
from plait.features.standing.run_queue import Entry, RunQueue, State
from plait.features.standing.submitted import checked, naming_nothing
from plait.progress import say
from plait.rounds.events import Event
from plait.rounds.ledger import OnEvent, read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView
from plait.rounds.stop import StopRequest
from plait.transport.labels import are_labels

if TYPE_CHECKING:
    from plait.adapters import Json
    from server.nodes_channel import NodesChannel

_LOOK_S = 0.5
_PAGE_BYTES = 1 << 18
_PAGE_RUNS = 100
_CLIENTS_WITHOUT_KIT = 64
_PUBLIC = ("config.toml", "ledger.jsonl", "summary.json", "report.html")
"""Files of a run directory for operators and observers; the plots and the adapter join them once the run is finished.

`OperatorCalls` takes no others.
"""


class Standing:
    """A standing server.

    Args:
        directory: of the federation; made if missing.

    Raises:
        PlaitError: another server has the directory, its journal is damaged, or it cannot serve.
    """

    def __init__(
        self, directory: Path, serving: Serving, *, limits: RunLimits | None = None, quiet: bool = False
    ) -> None:
        bind_apps()
        from plait.features.standing.operations import calls_of
        from server.served_run import open_channel

        self._serving = serving
        self._limits = limits or RunLimits()
        self._quiet = quiet
        self._queue = RunQueue(directory)
        self._lock = threading.Lock()
        self._current: tuple[str, StopRequest] | None = None
        self._stopping = self._serves = False
        self._cannot_serve: PlaitError | None = None
        self._on_start: Callable[[str], None] = lambda _: None
        self.channel: NodesChannel = open_channel(
            serving, clients=_CLIENTS_WITHOUT_KIT, stays=True, more=calls_of(self)
        )
        self.channel.count_runs(self._queue.counts)

    def serve(self, *, on_start: Callable[[str], None] = lambda _: None) -> None:
        """Serve runs until `stop`, or an exception in this thread.

        Raises:
            PlaitError: the address is taken, the service has ended, or the disk is full.
        """
        self._on_start = on_start
        try:
            # A run that a killed server was serving begins before any node is admitted: one that heard of no run would
            # take it to be over.
            if (left := self._queue.running()) is not None:
                self._serve(left)
            self._tidy()
            self._start()
            while not self._stopping:
                self.channel.check()
                entry = self._queue.begin_next(wait_s=_LOOK_S)
                if entry is not None:
                    self._serve(entry)
        finally:
            self.channel.stop()
            self._queue.close()

    def _start(self) -> None:
        if not self._serves:
            try:
                self.channel.start()
            except PlaitError as error:
                self._cannot_serve = error
                raise
            self._serves = True
            self._on_start(self.channel.address)

    def stop(self) -> None:
        """Stop soon, from another thread; the run in progress goes on when the server does."""
        self._stopping = True
        with self._lock:
            if self._current is not None:
                self._current[1].asked = True

    def submit(self, by: str, config_json: str, *, priority: int, cohort_labels: Sequence[str], name: str) -> str:
        """Put a run into the queue.

        Raises:
            ConfigError: its settings are not valid, or no client could take part; one line.
        """
        config = checked(config_json)
        self._check_clients(config, cohort_labels)
        self._check_room(config)
        entry = self._queue.submit(
            config.to_table(),
            by=by,
            number=new_run_number(),
            priority=priority,
            cohort_labels=tuple(sorted(set(cohort_labels))),
            name=name,
        )
        say(f"{by} submitted run {entry.run}", quiet=self._quiet)
        return entry.run

    def cancel(self, by: str, run: str) -> str:
        """Cancel a run.

        Raises:
            ConfigError: there is no such run, or it is over.
        """
        with self._lock:
            was = self._queue.cancel(run, by=by)
            if self._current is not None and self._current[0] == run:
                self._current[1].asked = True
        say(f"{by} cancelled run {run}", quiet=self._quiet)
        return was.value

    def status_json(self) -> str:
        """What `plait status --json` prints."""
        return self.channel.status_json()

    def runs(self) -> list[dict[str, Json]]:
        """All runs, in the order of their submission."""
        return [self._described(entry) for entry in self._queue.entries()]

    def run(self, name: str) -> dict[str, Json]:
        """One run.

        Raises:
            ConfigError: there is no such run.
        """
        return self._described(self._queue.entry(name))

    def page_json(self, *, run: str = "", before: str = "") -> str:
        """What `plait runs --json` prints, in one message however many runs there are.

        Args:
            run: only this one; empty for the newest.
            before: only runs that were submitted before this one; empty for the newest.

        Raises:
            ConfigError: there is no such run.
        """
        if run:
            return json.dumps({"runs": [self.run(run)]})
        found = self._queue.before(before)
        newest = _fitting(self._described(entry) for entry in reversed(found[-_PAGE_RUNS:]))
        page: dict[str, object] = {"runs": newest[::-1]}
        if len(newest) < len(found):
            page["before"] = newest[-1]["run"]
        if not before:
            stated = sorted(self.channel.labels_stated().items())
            page["clients"] = _fitting({"name": name, "labels": [*sorted(labels)]} for name, labels in stated)
            page["number_of_clients"] = len(stated)
        return json.dumps(page)

    def _described(self, entry: Entry) -> dict[str, Json]:
        described, progress = entry.described(), self.channel.progress()
        if progress is not None and entry.run == progress.run and entry.state is State.RUNNING:
            described |= {"round": progress.round, "doing": progress.state}
        return described

    def files(self, run: str) -> Sequence[tuple[str, Path]]:
        """The files of a run that is over, with their places.

        Raises:
            ConfigError: there is no such run, or it is not over.
        """
        entry = self._queue.entry(run)
        if not entry.is_over:
            raise ConfigError(f"run '{run}' is {entry.state}, expected one that is over; `plait submit --wait` waits")
        folder = self._queue.folder(run)
        found = [folder / name for name in _PUBLIC]
        if entry.state is State.FINISHED:
            found += [*sorted(folder.glob("*.png")), *sorted((folder / "adapter").glob("*"))]
        return [(path.relative_to(folder).as_posix(), path) for path in found if path.is_file()]

    def _check_clients(self, config: RunConfig, labels: Sequence[str]) -> None:
        if vouch_of(self._serving) is None:
            from plait.federation import check_vouched_for
            from plait.settle import settle

            check_vouched_for(settle(config))
        if not are_labels(labels):
            raise ConfigError("cohort-labels are not labels such as gpu or region=eu")
        registered = self._registered()
        if registered is not None and config.clients > registered:
            raise ConfigError(
                f"run asks for {config.clients} clients, but {registered} are provisioned; set clients to that at most"
            )
        stated = self.channel.labels_stated()
        for label in labels:
            if not any(label in own for own in stated.values()):
                known = ", ".join(sorted({each for own in stated.values() for each in own})) or "none"
                raise ConfigError(f"no client states label '{label}', expected some of those that they do: {known}")
        if labels and (fit := sum(own >= set(labels) for own in stated.values())) < config.clients:
            raise ConfigError(
                f"run asks for {config.clients} clients with labels {', '.join(labels)}, but {fit} state all of them"
            )

    def _check_room(self, config: RunConfig) -> None:
        """Refuse a run that its quota or the disk has no room for, as far as its base is here to tell."""
        from plait.features.standing.room import disk_bytes, most_disk_bytes
        from plait.settle import settle
        from plait.training.bases import base_at_hand

        settled = settle(config)
        base = base_at_hand(config.base, revision=config.revision)
        free, quota = shutil.disk_usage(self._queue.directory).free, self._limits.run_quota_bytes
        room = free if quota is None else min(free, quota)
        if base is None or most_disk_bytes(settled, base) <= room:
            return
        if (needed := disk_bytes(settled, base)) > room:
            what = "its disk has free" if room == free else "a run may have (--run-quota-gb)"
            raise ConfigError(
                f"run needs about {gigabytes(needed)} at the server, expected at most the {gigabytes(room)} that "
                f"{what}; set fewer rounds or clients, or a lower wire"
            )

    def _registered(self) -> int | None:
        if self._serving.kit_directory is None:
            return None
        from plait.trust.register import Register
        from plait.trust.roles import Role

        members = Register.load(self._serving.kit_directory).clients
        return sum(member.role is Role.CLIENT and member.revoked is None for member in members)

    def _serve(self, entry: Entry) -> None:
        """Serve one run to its end."""
        stop = StopRequest()
        with self._lock:
            self._current = (entry.run, stop)
            stop.asked = self._stopping
        say(f"run {entry.run} of {entry.by} begins", quiet=self._quiet)
        patience = Patience(self._limits.give_up_s, stop)
        quota = Quota(self._queue.folder(entry.run), self._limits.run_quota_bytes, stop)

        def hear(event: Event) -> None:
            patience.hear(event)
            quota.hear(event)

        try:
            self._drive(entry, stop, hear)
            self._queue.end(entry.run, Outcome.FINISHED)
        except Interrupted:
            if not stop.asked or self._stopping:
                raise
            if reason := patience.reason or quota.reason:
                self._queue.end(entry.run, Outcome.FAILED, reason)
        except DiskFullError:
            raise
        except PlaitError as error:
            if error is self._cannot_serve:
                raise  # a port that is taken is no fault of the run, which goes on with the next start
            self._queue.end(entry.run, Outcome.FAILED, str(error))
        except Exception as error:
            # A fault in one run must not end the federation.
            logging.getLogger("plait.server").exception("run %s failed", entry.run)
            self._queue.end(entry.run, Outcome.FAILED, f"{type(error).__name__}; the server's log says more")
        finally:
            patience.close()
            with self._lock:
                self._current = None
        # Only now: the nodes of a run that is merely interrupted must not take it to be over.
        self.channel.end()
        ended = self._queue.entry(entry.run)
        say(f"run {entry.run} is {ended.state}{f': {ended.detail}' if ended.detail else ''}", quiet=self._quiet)
        self._tidy()

    def _tidy(self) -> None:
        if self._limits.keep_runs is not None and (freed := tidy_runs(self._queue, keep=self._limits.keep_runs)):
            say(f"freed {gigabytes(freed)} of older runs; their adapters and ledgers stay", quiet=self._quiet)

    def _drive(self, entry: Entry, stop: StopRequest, on_event: OnEvent) -> None:
        from server.served_run import open_served_run

        directory = RunDirectory(self._queue.folder(entry.run))
        if (
            directory.has_started
            and RunView.after(read_events(directory.ledger)).finished
            and is_reported(directory.path)
        ):
            return  # the server was killed before it could say so
        table = {**entry.config, "out": str(directory.path)}
        settings = naming_nothing(config_from_table(table, where=f"run {entry.run}"))
        serving = replace(self._serving, run_number=entry.number)
        served = open_served_run(
            directory,
            settings,
            serving,
            channel=self.channel,
            labels=entry.cohort_labels,
            on_event=on_event,
            stop=stop,
            quiet=self._quiet,
        )
        if served is None:
            conclude(directory)
            return
        self._start()
        with served.followed(quiet=self._quiet):
            served.drive(quiet=self._quiet)
            self.channel.end()
            conclude(directory)


def _fitting(entries: Iterable[dict[str, Json]]) -> list[dict[str, Json]]:
    """As many of the first entries as a message has room for, at least one."""
    taken: list[dict[str, Json]] = []
    room = _PAGE_BYTES
    for entry in entries:
        room -= len(json.dumps(entry))
        if taken and room < 0:
            break
        taken.append(entry)
    return taken
