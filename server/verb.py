"""``plait server``: a federation over gRPC, from waiting for clients to the report."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from plait.api.received import how_to_resume
from plait.api.serving import CLIENTS_SETTINGS, Serving, ServingOptions, check_no_data
from plait.cli.options import ConfigFile, PageAddress, run_config, shown_default, with_run_options
from plait.cli.serving import GraceS, Insecure, Kit, Listen, Metrics, log_to, stop_on_signals
from plait.cli.simulate import show, with_resume_hint
from plait.config import RunConfig
from plait.page.beside import page_address, page_beside
from plait.report.progress import say
from plait.report.wording import plural
from plait.rounds.run_directory import RunDirectory
from plait.transport.process import share_memory_between_threads
from server.served_run import open_served_run

_CLIENTS = RunConfig().clients


@with_run_options(hidden=(*CLIENTS_SETTINGS, "clients"))
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
