"""A federation served over gRPC, from waiting for clients to the report: ``plait server``, and what `Server` shares.

A program's `Server` opens a run and sets neither signal handlers nor logging. Loads torch once a run is to be served.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from plait.api import TURN
from plait.api.received import how_to_resume
from plait.api.running import beside, check_names
from plait.api.serving import CLIENTS_SETTINGS, Serving, ServingOptions, check_no_data, conclude
from plait.api.simulate import is_reported
from plait.cli.options import ConfigFile, PageAddress, run_config, shown_default, with_run_options
from plait.cli.serving import GraceS, Insecure, Kit, Listen, Metrics, log_to, stop_on_signals
from plait.cli.simulate import show, with_resume_hint
from plait.composition import check_here
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.ledger.events import Event
from plait.ledger.ledger import OnEvent, read_events
from plait.ledger.run_now import LiveProgress
from plait.ledger.run_view import RunView
from plait.page.beside import page_address, page_beside
from plait.report.terminal import say, status, watch
from plait.report.wording import plural
from plait.rounds.callbacks import heard
from plait.rounds.channel import StopRequest
from plait.rounds.roster import REPLY_BYTES
from plait.rounds.run_directory import RunDirectory
from plait.rounds.validate import max_update_bytes
from plait.settle import check_vouched_for, settle
from plait.system.machine import share_memory_between_threads
from plait.trust.kit import ServerKit, is_vouched_for
from plait.wire.codec import DECODED
from server.hosting import Terms
from server.monitoring import log_run_event
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


_CLIENTS = RunConfig().clients


@partial(with_run_options, hidden=(*CLIENTS_SETTINGS, "clients"))
def server(
    given: Mapping[str, object],
    listen: Listen = "127.0.0.1:9440",
    kit: Kit = None,
    insecure: Insecure = False,
    min_clients: Annotated[
        int | None, typer.Option(help=f"Clients to wait for before the first round.  {shown_default(_CLIENTS)}", min=1)
    ] = None,
    metrics: Metrics = "",
    grace_s: GraceS = 30.0,
    page: PageAddress = "",
    config: ConfigFile = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
) -> None:
    """Serve a federation: wait for clients, run the rounds, write the report.

    To continue after a stop or a crash, give the same command again, or `plait resume RUN`.

    Example: plait server --kit fed/server --listen 0.0.0.0:9440 --min-clients 3 --rounds 20 --out runs/first
    """
    if page:
        page_address(page, what="--page")
    check_no_data(given)
    # A settings file may come from a simulation and name them.
    unset = dict.fromkeys(CLIENTS_SETTINGS, "")
    settings = run_config({**given, **({"clients": min_clients} if min_clients else {}), **unset}, config).with_out()
    directory = RunDirectory(Path(settings.out))
    where: ServingOptions = {"listen": listen, "kit": kit, "insecure": insecure, "metrics": metrics, "grace_s": grace_s}
    serving = Serving.of(where, file=directory.server)
    with with_resume_hint(settings, serving, page=page):
        serve(directory, settings, serving, page=page, quiet=json_output)
        show(directory.path, json_output=json_output)


def serve(directory: RunDirectory, settings: RunConfig, serving: Serving, *, page: str = "", quiet: bool) -> None:
    """Serve until the run is over; everything received until an error is on disk."""
    share_memory_between_threads()
    served = open_served_run(directory, settings, serving, quiet=quiet)
    if served is None:
        return
    log_to(directory.server_log)
    stop_on_signals(how_to_resume(settings, serving, page=page))

    @contextmanager
    def announced() -> Generator[None]:
        with served.channel:
            say(f"serving on {served.channel.address}; waiting for {plural(settings.clients, 'client')}", quiet=quiet)
            yield

    with page_beside(directory.path, page, status_json=served.channel.status_json):
        served.work(announced())
