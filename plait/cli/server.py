"""``plait server``: a federation over gRPC, from waiting for clients to the report."""

from __future__ import annotations

import logging
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from plait import machine
from plait.api.running import is_reported
from plait.cli.apps import add_apps_to_path
from plait.cli.options import ConfigFile, run_config, shown_default, with_run_options
from plait.cli.serving import Serving, load_serving, new_run_number
from plait.cli.simulate import show, told_how_to_go_on
from plait.config import RunConfig
from plait.errors import ConfigError, Interrupted, MachineError
from plait.progress import say, status, watch
from plait.rounds.ledger import read_events
from plait.rounds.recorded import is_finished
from plait.rounds.run_directory import RunDirectory
from plait.simulation.names import check_names

if TYPE_CHECKING:
    from plait.trust.kit import ServerKit

_LOG_BYTES = 16 << 20
_NEWCOMERS = 16
_AT_THE_DOOR = 64
# Settings that clients bring themselves. A settings file may come from a simulation and name them.
_CLIENTS = RunConfig().clients
_NOT_THE_SERVERS = {"data": "", "columns": "", "split": "", "partition": "", "reference": ""}


@with_run_options(hidden=(*_NOT_THE_SERVERS, "clients", "side_by_side"))
def server(
    given: Mapping[str, object],
    listen: Annotated[str, typer.Option(help="Address and port to serve on.")] = "127.0.0.1:9440",
    kit: Annotated[Path | None, typer.Option(help="The server's kit, from `plait provision`.")] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Serve without TLS and keys; loopback addresses only.")
    ] = False,
    min_clients: Annotated[
        int | None, typer.Option(help=f"Clients to wait for before the first round.  {shown_default(_CLIENTS)}", min=1)
    ] = None,
    metrics: Annotated[str, typer.Option(help="Address of the Prometheus page, such as 127.0.0.1:9441.")] = "",
    grace_s: Annotated[
        float, typer.Option(help="Seconds a client may be disconnected before its task is given up.")
    ] = 30.0,
    config: ConfigFile = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
) -> None:
    """Serve a federation: wait for clients, run the rounds, write the report.

    To continue after a stop or a crash, give the same command again, or `plait resume RUN`.

    Example: plait server --kit fed/server --listen 0.0.0.0:9440 --min-clients 3 --rounds 20 --out runs/first
    """
    if (kit is None) != insecure:
        raise ConfigError(
            "--kit and --insecure are both given, expected one of them"
            if insecure
            else "neither --kit nor --insecure is given: make a kit with `plait provision DIR --clients NAMES`, "
            "or use --insecure to try it on this machine"
        )
    for key in _NOT_THE_SERVERS:
        if key in given:
            raise ConfigError(f"--{key} is given, expected none: clients bring their own data")
    settings = run_config({**given, **({"clients": min_clients} if min_clients else {}), **_NOT_THE_SERVERS}, config)
    settings = settings.with_out()
    directory = RunDirectory(Path(settings.out))
    before = load_serving(directory.server)
    serving = Serving(
        listen=listen,
        kit=str(kit.absolute()) if kit else "",
        metrics=metrics,
        grace_s=grace_s,
        run_number=before.run_number if before else new_run_number(),
    )
    with told_how_to_go_on(settings.out):
        serve(directory, settings, serving, quiet=json_output)
        show(directory.path, json_output=json_output)


def serve(directory: RunDirectory, settings: RunConfig, serving: Serving, *, quiet: bool) -> None:
    """Serve until the run is over.

    Raises:
        PlaitError: the reason that the run stopped; everything received until then is on disk.
    """
    if directory.has_started and is_finished(read_events(directory.ledger)):
        if is_reported(directory.path):
            raise ConfigError(f"'{settings.out}' holds a finished run; `plait report {settings.out}` shows it")
        _conclude(directory)
        return
    if directory.has_started and not directory.server.exists():
        raise ConfigError(
            f"'{settings.out}' holds a simulated run; `plait resume {settings.out}` continues it, or give another --out"
        )
    check_names(settings)
    kit = _load_kit(serving)
    machine.share_memory_between_threads()
    add_apps_to_path()
    with status("loading libraries", quiet=quiet):
        from plait.federation import run_federation
        from plait.flower.apps import server_app
        from plait.report.wording import plural
        from plait.rounds.description import REPLY_BYTES
        from plait.rounds.run_progress import LiveProgress, RunProgress
        from plait.rounds.validate import max_update_bytes
        from plait.run import resolve
        from plait.settle import settle
        from plait.stacking import starting_point_of
        from server.grpc_grid import GrpcGrid
        from server.limits import Limits
        from server.log import say_event
    with status(f"looking for base {settings.base}", quiet=quiet):
        # Invalid settings are refused before clients are accepted.
        run = resolve(settle(settings), progress=lambda text: say(text, quiet=quiet))
        start = None if directory.has_started else starting_point_of(run)
    grid = GrpcGrid(
        serving.listen,
        inbox=directory.path / ".inbox",
        kit=kit,
        run_id=serving.run_number,
        run_config=run.settled.announced,
        base_fingerprint=run.base_fingerprint,
        limits=Limits(
            max_answer_bytes=REPLY_BYTES + max_update_bytes(run.ranks.master.spec.layout),
            grace_s=serving.grace_s,
            max_nodes=_most_nodes(kit, settings.clients),
            max_unproven=_AT_THE_DOOR,
        ),
        metrics_listen=serving.metrics or None,
        summary=LiveProgress(
            directory.ledger,
            RunProgress(run=directory.path.name, rounds=settings.rounds, deadline_s=settings.deadline_s or None),
        ),
    )
    app = server_app(lambda channel, _: run_federation(channel, run, start=start, on_event=say_event))
    serving.save(directory.server)
    _log_to(directory.server_log)
    _stop_on_signals(settings.out)
    with grid:
        say(f"serving on {grid.address}; waiting for {plural(settings.clients, 'client')}", quiet=quiet)
        with watch(
            directory.ledger,
            rounds=settings.rounds,
            cohort=settings.cohort_size,
            clients=settings.clients,
            quiet=quiet,
        ):
            grid.drive(app)
    _conclude(directory)


def _conclude(directory: RunDirectory) -> None:
    """Write the report; remove the raw answers, which are folded into the adapter by now."""
    from plait.report import write_report

    shutil.rmtree(directory.path / ".inbox", ignore_errors=True)
    write_report(directory.path)


def _most_nodes(kit: ServerKit | None, clients: int) -> int:
    """Room for all provisioned clients and some newcomers, but no more: each node costs memory."""
    from plait.trust import Register

    registered = len(Register.load(kit.directory).clients) if kit is not None else clients
    return 2 * max(registered, clients) + _NEWCOMERS


def _load_kit(serving: Serving) -> ServerKit | None:
    if serving.kit_directory is None:
        return None
    from plait.trust.kit import ServerKit

    return ServerKit.load(serving.kit_directory)


def _log_to(path: Path) -> None:
    """Log every event of the server to a file of bounded size, and warnings to stderr as well."""
    from logging.handlers import RotatingFileHandler

    logger = logging.getLogger("plait.server")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        file = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="ascii", delay=False)
    except OSError as error:
        raise MachineError(f"cannot write '{path}': {error.strerror or error}") from error
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    for handler in (file, screen):
        handler.setFormatter(
            logging.Formatter("time=%(asctime)s level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
        )
        logger.addHandler(handler)


def _stop_on_signals(out: str) -> None:
    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Interrupted(f"stopped; everything received so far is saved; continue with: plait resume {out}")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
