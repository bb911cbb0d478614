"""``plait server``: a federation over gRPC, from waiting for clients to the report."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from plait import machine
from plait.api.serving import CLIENTS_SETTINGS, Serving, load_serving, new_run_number
from plait.cli.options import ConfigFile, PageAddress, run_config, shown_default, with_run_options
from plait.cli.page import check_page, page_beside
from plait.cli.simulate import show, told_how_to_go_on
from plait.config import RunConfig
from plait.errors import ConfigError, Interrupted, MachineError
from plait.progress import say
from plait.rounds.run_directory import RunDirectory

if TYPE_CHECKING:
    from plait.api.standing import RunLimits

_LOG_BYTES = 16 << 20
_CLIENTS = RunConfig().clients


@with_run_options(hidden=(*CLIENTS_SETTINGS, "clients", "side_by_side"))
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
    stay: Annotated[
        bool,
        typer.Option(
            "--stay", help="Stay between runs, which operators submit with `plait submit`; --out has them all."
        ),
    ] = False,
    give_up_s: Annotated[
        float | None,
        typer.Option(
            "--give-up-s",
            help="With --stay: seconds until a run ends whose connected clients cannot take part.  "
            "[dim]\\[default: 120][/dim]",
            min=0.1,
        ),
    ] = None,
    keep_runs: Annotated[
        int | None,
        typer.Option(
            "--keep-runs",
            help="With --stay: all but so many of the newest runs give up received updates and older checkpoints; "
            "results stay.",
            min=0,
        ),
    ] = None,
    run_quota_gb: Annotated[
        float | None,
        typer.Option(
            "--run-quota-gb",
            help="With --stay: disk space that a run may have; one that needs more is refused or ends.",
            min=0.0,
        ),
    ] = None,
    page: PageAddress = "",
    config: ConfigFile = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
) -> None:
    """Serve a federation: wait for clients, run the rounds, write the report; with --stay, many runs, one by one.

    To continue after a stop or a crash, give the same command again, or without --stay `plait resume RUN`.

    Example: plait server --kit fed/server --listen 0.0.0.0:9440 --min-clients 3 --rounds 20 --out runs/first
    """
    if (kit is None) != insecure:
        raise ConfigError(
            "--kit and --insecure are both given, expected one of them"
            if insecure
            else "neither --kit nor --insecure is given: make a kit with `plait provision DIR --clients NAMES`, "
            "or use --insecure to try it on this machine"
        )
    check_page(page)
    serving = Serving(
        listen=listen, kit=str(kit.absolute()) if kit else "", metrics=metrics, grace_s=grace_s, run_number=0
    )
    if stay:
        from plait.api.standing import GIVE_UP_S, RunLimits

        others = [*(key for key in given if key != "out"), *(["min_clients"] if min_clients else [])]
        if others or config is not None or json_output:
            named = others[0].replace("_", "-") if others else "config" if config is not None else "json"
            raise ConfigError(f"--{named} is given with --stay, expected it with each run: `plait submit CONFIG.toml`")
        limits = RunLimits(
            give_up_s=GIVE_UP_S if give_up_s is None else give_up_s,
            keep_runs=keep_runs,
            run_quota_bytes=None if run_quota_gb is None else int(run_quota_gb * 1e9),
        )
        serve_queue(Path(str(given.get("out") or "federation")), serving, limits=limits, page=page)
        return
    for name, value in {"give-up-s": give_up_s, "keep-runs": keep_runs, "run-quota-gb": run_quota_gb}.items():
        if value is not None:
            raise ConfigError(f"--{name} is given without --stay, expected both")
    for key in CLIENTS_SETTINGS:
        if key in given:
            raise ConfigError(f"--{key} is given, expected none: clients bring their own data")
    # A settings file may come from a simulation and name them.
    unset = dict.fromkeys(CLIENTS_SETTINGS, "")
    settings = run_config({**given, **({"clients": min_clients} if min_clients else {}), **unset}, config).with_out()
    directory = RunDirectory(Path(settings.out))
    before = load_serving(directory.server)
    serving = replace(serving, run_number=before.run_number if before else new_run_number())
    with told_how_to_go_on(settings.out):
        serve(directory, settings, serving, page=page, quiet=json_output)
        show(directory.path, json_output=json_output)


def serve(
    directory: RunDirectory,
    settings: RunConfig,
    serving: Serving,
    *,
    page: str = "",
    quiet: bool,
) -> None:
    """Serve until the run is over.

    Args:
        directory: of the run.
        settings: of the run.
        serving: where and how to serve.
        page: address of the live page; empty for none.
        quiet: whether to show nothing.

    Raises:
        PlaitError: the reason that the run stopped; everything received until then is on disk.
    """
    from plait.api.service import conclude, open_service
    from plait.report.wording import plural

    machine.share_memory_between_threads()
    service = open_service(directory, settings, serving, quiet=quiet)
    if service is None:
        conclude(directory)
        return
    _log_to(directory.server_log)
    _stop_on_signals(f"plait resume {settings.out}")
    beside = page_beside(directory.path, page, status_json=service.grid.status_json)
    with beside, service.followed(quiet=quiet):
        with service.grid:
            address = service.grid.address
            awaited = plural(settings.below, "region" if len(settings.levels) > 1 else "client")
            say(f"serving on {address}; waiting for {awaited}", quiet=quiet)
            service.drive(quiet=quiet)
        conclude(directory)


def serve_queue(
    directory: Path,
    serving: Serving,
    *,
    limits: RunLimits,
    page: str = "",
) -> None:
    """Serve the runs of a federation until the process is told to end.

    Args:
        directory: of the federation.
        serving: where and how to serve.
        limits: what runs may use.
        page: address of the live page; empty for none.

    Raises:
        Interrupted: it was.
        PlaitError: it cannot serve.
    """
    from plait.api.standing import Standing

    machine.share_memory_between_threads()
    standing = Standing(directory, serving, limits=limits)
    _log_to(directory / "server.log")
    _stop_on_signals("the same command")
    with page_beside(directory, page, folder=True, status_json=standing.status_json):
        standing.serve(
            on_start=lambda address: say(f"serving on {address}; runs come from `plait submit`", quiet=False)
        )


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


def _stop_on_signals(how: str) -> None:
    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Interrupted(f"stopped; everything received so far is saved; continue with: {how}")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
