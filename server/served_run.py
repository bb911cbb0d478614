"""A federation served over gRPC, from settings to report: what `plait server` and `plait.Server` have in common.

Sets no signal handler and configures no logging: both are the caller's. Loads torch once a run is to be served.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from plait.api import TURN
from plait.api.running import beside, check_names
from plait.api.serving import Serving, conclude
from plait.api.simulate import is_reported
from plait.composition import check_here, heard
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.ledger.events import Event
from plait.ledger.ledger import OnEvent, read_events
from plait.ledger.run_now import LiveProgress
from plait.ledger.run_view import RunView
from plait.report.progress import status, watch
from plait.rounds.channel import StopRequest
from plait.rounds.roster import REPLY_BYTES
from plait.rounds.run_directory import RunDirectory
from plait.rounds.validate import max_update_bytes
from plait.settle import check_vouched_for, settle
from plait.trust.kit import ServerKit, is_vouched_for
from plait.wire.codec import DECODED
from server.hosting import Terms
from server.log import log_run_event
from server.nodes_channel import NodesChannel, open_channel


@dataclass(frozen=True, eq=False)
class ServedRun:
    """A run that is ready to be served."""

    settings: RunConfig
    directory: RunDirectory
    channel: NodesChannel
    rounds: Callable[[], object]
    quiet: bool

    def work(self, serving: AbstractContextManager[object]) -> None:
        """Run the rounds to their end inside `serving`, followed by the run's trackers, and then write the report."""
        settings, ledger = self.settings, self.directory.ledger
        counts = {"rounds": settings.rounds, "cohort": settings.cohort_size, "evaluators": settings.evaluators}
        with beside(settings, self.directory.path, quiet=self.quiet):
            with serving, watch(ledger, **counts, quiet=self.quiet):
                self.rounds()
            conclude(self.directory)


def open_served_run(
    directory: RunDirectory,
    settings: RunConfig,
    serving: Serving,
    *,
    channel: NodesChannel | None = None,
    on_event: OnEvent = lambda _: None,
    stop: StopRequest | None = None,
    quiet: bool,
) -> ServedRun | None:
    """Get ready to serve a run, new or begun, by this channel or a new one; None if only its report was missing."""
    if directory.has_started and _is_over(directory, settings.out):
        conclude(directory)
        return None
    check_names(settings)
    with status("loading libraries", quiet=quiet):
        from plait.federation import beginning_of, run_federation  # brings torch along
        from plait.run import resolve
    check_here(settings, simulates=False)
    channel = channel or open_channel(serving, clients=settings.clients)
    kit = ServerKit.load(serving.kit_directory) if serving.kit_directory else None
    vouch = partial(is_vouched_for, kit.tls.authority) if kit else None
    with TURN, status(f"looking for base {settings.base}", quiet=quiet) as progress:
        # Invalid settings are refused before clients are accepted.
        settled = settle(settings)
        if vouch is None:
            check_vouched_for(settled)
        run = resolve(settled, progress=progress)
        start = None if directory.has_started else beginning_of(run)
    asked = stop or StopRequest()
    channel.begin(
        Terms(serving.run_number, run.settled.announced, run.base_fingerprint),
        inbox=directory.inbox,
        max_answer_bytes=REPLY_BYTES + max_update_bytes(run.ranks.master.spec.layout),
        progress=LiveProgress(directory.ledger, rounds=run.config.rounds),
        stop=asked,
    )

    def log_and_pass_on(event: Event) -> None:
        log_run_event(event)
        on_event(event)

    def rounds() -> None:
        # An update is unpacked when it comes, and again when its round is folded: of a small cohort only once.
        with DECODED.kept(), heard(settings.callbacks, directory, asked, log_and_pass_on) as hear:
            run_federation(channel, run, start=start, on_event=hear, stop=asked, vouch=vouch)

    serving.save(directory.server)
    return ServedRun(settings, directory, channel, rounds, quiet)


def _is_over(directory: RunDirectory, out: str) -> bool:
    """Whether a run that has begun lacks its report alone."""
    view = RunView.after(read_events(directory.ledger))
    if view.finished:
        if is_reported(directory.path):
            raise ConfigError(f"'{out}' holds a finished run; `plait report {out}` shows it")
        return True
    if not directory.server.exists():
        kind, command = "simulated run", f"plait resume {out}"
        if view.start.superlink_data is not None:
            kind, command = "run of Flower's SuperLink", "flwr run"
        raise ConfigError(f"'{out}' holds a {kind}; `{command}` continues it, or give another --out")
    return False
